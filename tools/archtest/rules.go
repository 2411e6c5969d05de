package archtest

import (
	"fmt"
	"go/ast"
	"path"
	"slices"
	"strings"
)

// Rule is one sentence about the tree and the check behind it.
type Rule struct {
	Name  string
	Check func(*Tree, func(place, problem string))
}

// Rules are all rules, in the order in which they are reported.
var Rules = []Rule{
	{"tier", checkTier},
	{"pure-imports", checkPureImports},
	{"pure-calls", checkPureCalls},
	{"inward", checkInward},
	{"services-apart", checkServicesApart},
	{"tools-last", checkToolsLast},
	{"libs-below", checkLibsBelow},
	{"proto-edge", checkProtoEdge},
	{"fenced", checkFenced},
	{"test-support", checkTestSupport},
	{"names", checkNames},
	{"no-init", checkNoInit},
	{"unsafe-server", checkUnsafeServer},
	{"main-size", checkMainSize},
	{"file-size", checkFileSize},
}

// Check runs every rule over the tree.
func Check(tree *Tree) []Violation {
	var found []Violation
	for _, rule := range Rules {
		rule.Check(tree, func(place, problem string) {
			found = append(found, Violation{Rule: rule.Name, Place: place, Problem: problem})
		})
	}
	return found
}

// internalName is the name of a service's internal package ("placement" of services/scheduler/internal/placement/solve).
func internalName(pkg string) (string, bool) {
	rest, found := strings.CutPrefix(pkg, service(pkg)+"/internal/")
	if service(pkg) == "" || !found {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	return name, true
}

// testSupport reports whether a package serves tests only, which its name says: pgtest, storetest, registryfake.
func testSupport(pkg string) bool {
	name := path.Base(pkg)
	return strings.HasSuffix(name, "test") || strings.HasSuffix(name, "fake")
}

func (t *Tree) pure(pkg string) bool {
	name, internal := internalName(pkg)
	return internal && slices.Contains(t.Tiers[service(pkg)].Pure, name)
}

// checkTier: every internal package of a service has exactly one tier, and the table names no package that is gone.
func checkTier(t *Tree, report func(place, problem string)) {
	present := map[string]bool{}
	for _, pkg := range t.Packages {
		name, internal := internalName(pkg.Path)
		if !internal || testSupport(pkg.Path) {
			continue
		}
		present[service(pkg.Path)+"/"+name] = true
		tiers := t.Tiers[service(pkg.Path)]
		pure, shell := slices.Contains(tiers.Pure, name), slices.Contains(tiers.Shell, name)
		if pure == shell {
			report(pkg.Path, "must be either pure or shell: enter it once in tools/archtest/tiers.go")
		}
	}
	for service, tiers := range t.Tiers {
		for _, name := range slices.Concat(tiers.Pure, tiers.Shell) {
			if !present[service+"/"+name] {
				report(service+"/internal/"+name, "stands in tools/archtest/tiers.go but does not exist")
			}
		}
		for _, name := range tiers.API {
			if !slices.Contains(tiers.Shell, name) {
				report(service+"/internal/"+name, "is an API package and must be a shell")
			}
		}
	}
}

// checkPureImports: pure code imports pure siblings and the harmless part of the standard library.
func checkPureImports(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if !t.pure(pkg.Path) {
			continue
		}
		for _, imported := range pkg.imports(false) {
			sibling, our := ours(imported)
			switch {
			case our && service(sibling) == service(pkg.Path) && t.pure(sibling):
			case our:
				report(pkg.Path, "is pure and imports "+sibling+", which is not a pure sibling")
			case !standard(imported):
				report(pkg.Path, "is pure and imports "+imported+": pure code needs the standard library only")
			case slices.ContainsFunc(pureForbidden, func(p string) bool { return below(imported, p) }) && !slices.Contains(pureAllowed, imported):
				report(pkg.Path, "is pure and imports "+imported+": pass values in, hand results out")
			}
		}
	}
}

// checkPureCalls: pure code reads no clock and no global randomness; both are arguments.
func checkPureCalls(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if !t.pure(pkg.Path) {
			continue
		}
		for _, file := range pkg.Files {
			if file.Test {
				continue
			}
			for imported, functions := range impureCalls {
				name, uses := file.Imports[imported]
				if !uses {
					continue
				}
				if name == "." {
					report(file.Path, "imports "+imported+" with a dot, which hides what is called")
				}
				ast.Inspect(file.Syntax, func(node ast.Node) bool {
					if selector, is := node.(*ast.SelectorExpr); is && isIdentifier(selector.X, name) && slices.Contains(functions, selector.Sel.Name) {
						report(file.at(selector), fmt.Sprintf("is pure and uses %s.%s: take it as an argument", imported, selector.Sel.Name))
					}
					return true
				})
			}
		}
	}
}

func isIdentifier(expression ast.Expr, name string) bool {
	identifier, is := expression.(*ast.Ident)
	return is && identifier.Name == name
}

// checkInward: within a service imports point inward: cmd, root, internal. Nothing imports a command's package.
func checkInward(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		_, internal := internalName(pkg.Path)
		for _, imported := range pkg.imports(true) {
			path, our := ours(imported)
			if !our {
				continue
			}
			if strings.Contains(path+"/", "/cmd/") {
				report(pkg.Path, "imports the command "+path)
			}
			if internal && path == service(pkg.Path) {
				report(pkg.Path, "imports its own service's wiring")
			}
		}
	}
}

// checkServicesApart: services speak protobuf to each other; their code does not meet.
func checkServicesApart(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		own := service(pkg.Path)
		if own == "" {
			continue
		}
		for _, imported := range pkg.imports(true) {
			if path, our := ours(imported); our && service(path) != "" && service(path) != own {
				report(pkg.Path, "imports "+path+" of another service: call it over gRPC")
			}
		}
	}
}

// checkToolsLast: nothing that ships as a service, and no library, depends on the tools.
func checkToolsLast(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if below(pkg.Path, "tools") {
			continue
		}
		for _, imported := range pkg.imports(true) {
			if path, our := ours(imported); our && below(path, "tools") {
				report(pkg.Path, "imports "+path+": tools build on the product, never the other way")
			}
		}
	}
}

// checkLibsBelow: libs know the contracts and each other; the contracts know nobody.
func checkLibsBelow(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		for _, imported := range pkg.imports(true) {
			path, our := ours(imported)
			switch {
			case !our:
			case below(pkg.Path, "libs") && service(path) != "":
				report(pkg.Path, "is a library and imports "+path)
			case below(pkg.Path, "proto") && !below(path, "proto"):
				report(pkg.Path, "is a contract and imports "+path)
			}
		}
	}
}

// checkProtoEdge: proto types stop at the API packages. What lies inward works on its own types, so that a contract can
// change without touching a decision.
func checkProtoEdge(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		name, internal := internalName(pkg.Path)
		if !internal || testSupport(pkg.Path) || slices.Contains(t.Tiers[service(pkg.Path)].API, name) {
			continue
		}
		for _, imported := range pkg.imports(false) {
			if path, our := ours(imported); our && below(path, "proto") {
				report(pkg.Path, "imports "+path+": proto types stop at the API packages")
			}
		}
	}
}

// checkFenced: some dependencies are known in one place only.
func checkFenced(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		for _, fence := range fenced {
			if testSupport(pkg.Path) || slices.ContainsFunc(fence.allowed, func(pattern string) bool { return matches(pkg.Path, pattern) }) {
				continue
			}
			for _, imported := range pkg.imports(false) {
				if below(imported, fence.dependency) {
					report(pkg.Path, fmt.Sprintf("imports %s: %s", imported, fence.instead))
				}
			}
		}
	}
}

// checkTestSupport: what serves tests is not in the product.
func checkTestSupport(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if testSupport(pkg.Path) || below(pkg.Path, "tools") {
			continue
		}
		for _, imported := range pkg.imports(false) {
			if path, our := ours(imported); our && testSupport(path) {
				report(pkg.Path, "imports "+path+", which is for tests")
			}
		}
	}
}

// matches reports whether the package is, or lies below, what the pattern names; * stands for one path element.
func matches(pkg, pattern string) bool {
	parts, wanted := strings.Split(pkg, "/"), strings.Split(pattern, "/")
	if len(parts) < len(wanted) {
		return false
	}
	matched, err := path.Match(pattern, strings.Join(parts[:len(wanted)], "/"))
	return err == nil && matched
}

// checkNames: a package is named for what it is, and there is no internal package at the root, which every module under
// the prefix could import.
func checkNames(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if below(pkg.Path, "internal") {
			report(pkg.Path, "every module could import a root internal package: put it into its module")
		}
		for _, part := range append(strings.Split(pkg.Path, "/"), strings.TrimSuffix(pkg.Name, "_test")) {
			if slices.Contains(bannedNames, part) {
				report(pkg.Path, fmt.Sprintf("%q says nothing about what is inside", part))
				break
			}
		}
	}
}

// beforeMain may have an init function: the agent's supervisor has to begin before what its other packages prepare, which
// takes longer than the start of a trainer.
var beforeMain = []string{"services/gpu-agent/internal/launch/reexec.go"}

// checkNoInit: nothing registers itself behind the reader's back.
func checkNoInit(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		for _, file := range pkg.Files {
			for _, declaration := range file.Syntax.Decls {
				if function, is := declaration.(*ast.FuncDecl); is && function.Recv == nil && function.Name.Name == "init" {
					place := file.at(function)
					if slices.ContainsFunc(beforeMain, func(path string) bool { return strings.HasPrefix(place, path+":") }) {
						continue
					}
					report(place, "has an init function: call it where it is needed")
				}
			}
		}
	}
}

// checkUnsafeServer: a real server embeds UnsafeXServer, so that a new method of the contract breaks the build instead of
// answering UNIMPLEMENTED in production. Fakes may embed UnimplementedXServer.
func checkUnsafeServer(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if service(pkg.Path) == "" || testSupport(pkg.Path) {
			continue
		}
		for _, file := range pkg.Files {
			if file.Test {
				continue
			}
			ast.Inspect(file.Syntax, func(node ast.Node) bool {
				field, is := node.(*ast.Field)
				if !is || len(field.Names) > 0 {
					return true
				}
				if selector, is := field.Type.(*ast.SelectorExpr); is && strings.HasPrefix(selector.Sel.Name, "Unimplemented") {
					report(file.at(field), "embeds "+selector.Sel.Name+": embed the Unsafe one, so that a missing method does not compile")
				}
				return true
			})
		}
	}
}

// checkMainSize: a service's main is a list.
func checkMainSize(t *Tree, report func(place, problem string)) {
	for _, pkg := range t.Packages {
		if !below(pkg.Path, service(pkg.Path)+"/cmd") {
			continue
		}
		for _, file := range pkg.Files {
			if lines := file.fset.Position(file.Syntax.FileEnd).Line; !file.Test && lines > maxMainLines {
				report(file.Path, fmt.Sprintf("has %d lines, more than %d: wiring belongs to the service's root package", lines, maxMainLines))
			}
		}
	}
}
