// Package archtest holds the architecture's rules as tests: which package may import what, what pure code may not call, and
// how large a file may grow. The rules read the tree as it is (go list names the packages, the parser reads the imports of
// every file, whatever its build tags), so nothing has to be registered anywhere but in the tier table.
//
// Every rule has at least one mutant, a tiny tree that breaks it and nothing else: a rule that cannot fail is found out.
//
// Run it with -count=1: Go's test cache does not see files of other modules.
package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Prefix starts the import path of every package of this repository.
const Prefix = "github.com/ultrathink-pilot/trainyard"

// Violation is one broken rule at one place.
type Violation struct {
	// Rule is the rule's name in Rules.
	Rule string
	// Place is a package's or a file's path below the root, with a line number where one line is to blame.
	Place string
	// Problem says what is wrong there and what to do instead.
	Problem string
}

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Place, v.Rule, v.Problem) }

// File is one parsed Go file.
type File struct {
	// Path is relative to the root, with slashes.
	Path string
	Test bool
	// Imports maps an import path to the name under which the file knows it.
	Imports map[string]string
	Syntax  *ast.File
	fset    *token.FileSet
}

// at is the place of a node of the file.
func (f *File) at(node ast.Node) string {
	return fmt.Sprintf("%s:%d", f.Path, f.fset.Position(node.Pos()).Line)
}

// Package is one package of the repository, as go list names it and with all files of its directory.
type Package struct {
	// Path is the import path without Prefix and its slash; empty for a package at the root.
	Path  string
	Name  string
	Files []*File
}

// imports lists what the package's files import, sorted: of product code only, or of tests too.
func (p *Package) imports(tests bool) []string {
	seen := map[string]bool{}
	for _, file := range p.Files {
		if file.Test && !tests {
			continue
		}
		for path := range file.Imports {
			seen[path] = true
		}
	}
	all := make([]string, 0, len(seen))
	for path := range seen {
		all = append(all, path)
	}
	slices.Sort(all)
	return all
}

// Tree is what the rules judge.
type Tree struct {
	// Root is the absolute path of the repository.
	Root     string
	Packages []*Package
	Tiers    Tiers
}

// Load reads the packages below root that match pattern ("work" for a workspace, "./..." for a module).
func Load(root, pattern string, tiers Tiers) (*Tree, error) {
	list := exec.Command("go", "list", "-e", "-tags=e2e", "-json=ImportPath,Name,Dir", pattern)
	list.Dir = root
	var stderr bytes.Buffer
	list.Stderr = &stderr
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w: %s", err, stderr.String())
	}
	tree := &Tree{Root: root, Tiers: tiers}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var listed struct{ ImportPath, Name, Dir string }
		if err := decoder.Decode(&listed); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		pkg, err := parse(root, listed.Dir)
		if err != nil {
			return nil, err
		}
		if len(pkg.Files) == 0 {
			continue // A pattern over an empty module lists its root.
		}
		pkg.Path = strings.TrimPrefix(strings.TrimPrefix(listed.ImportPath, Prefix), "/")
		pkg.Name = listed.Name
		tree.Packages = append(tree.Packages, pkg)
	}
	if len(tree.Packages) == 0 {
		return nil, fmt.Errorf("go list %s in %s found no package", pattern, root)
	}
	return tree, nil
}

func parse(root, dir string) (*Package, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	pkg := &Package{}
	for _, entry := range entries {
		if entry.IsDir() || path.Ext(entry.Name()) != ".go" {
			continue
		}
		name := filepath.Join(dir, entry.Name())
		fset := token.NewFileSet()
		syntax, err := parser.ParseFile(fset, name, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if ast.IsGenerated(syntax) {
			// Nobody writes it, so nobody can mend it; who imports it is still judged.
			syntax.Decls = slices.DeleteFunc(syntax.Decls, func(decl ast.Decl) bool { _, is := decl.(*ast.FuncDecl); return is })
		}
		relative, err := filepath.Rel(root, name)
		if err != nil {
			return nil, err
		}
		file := &File{
			Path: filepath.ToSlash(relative), Test: strings.HasSuffix(name, "_test.go"),
			Imports: map[string]string{}, Syntax: syntax, fset: fset,
		}
		for _, spec := range syntax.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			file.Imports[imported] = localName(spec, imported)
		}
		pkg.Files = append(pkg.Files, file)
	}
	return pkg, nil
}

// localName is the identifier by which a file calls an import. A major version suffix is no name: math/rand/v2 is rand.
func localName(spec *ast.ImportSpec, imported string) string {
	if spec.Name != nil {
		return spec.Name.Name
	}
	base := path.Base(imported)
	if len(base) > 1 && base[0] == 'v' && strings.Trim(base[1:], "0123456789") == "" {
		base = path.Base(path.Dir(imported))
	}
	return base
}

// below reports whether path is parent or lies below it.
func below(path, parent string) bool {
	return path == parent || strings.HasPrefix(path, parent+"/")
}

// ours returns an import path without Prefix, and whether it had it.
func ours(imported string) (string, bool) {
	if !below(imported, Prefix) {
		return "", false
	}
	return strings.TrimPrefix(strings.TrimPrefix(imported, Prefix), "/"), true
}

// standard reports whether an import path belongs to the standard library: its first element has no dot.
func standard(imported string) bool {
	first, _, _ := strings.Cut(imported, "/")
	return !strings.Contains(first, ".")
}

// service returns the directory of the service that a package belongs to ("services/scheduler"), or "".
func service(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) < 2 || parts[0] != "services" {
		return ""
	}
	return parts[0] + "/" + parts[1]
}
