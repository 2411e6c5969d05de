// Package config fills a struct from flags, environment, file and defaults, in
// that order of precedence, and reports every problem in one error.
//
//	type Config struct {
//		Listen    string        `conf:"listen" default:"127.0.0.1:0" usage:"host:port to serve on"`
//		DSN       string        `conf:"dsn" required:"true" secret:"true" usage:"Postgres connection string"`
//		Lease     time.Duration `conf:"lease" default:"15s" usage:"how long a lease lasts"`
//		SpoolSize config.Bytes  `conf:"spool-size" default:"256MiB" usage:"bound of the metric spool"`
//	}
//
// For a service "scheduler" the key "dsn" is the flag --dsn, the variable
// TRAINYARD_SCHEDULER_DSN and the line "dsn:" of the YAML file named by --config
// (or TRAINYARD_SCHEDULER_CONFIG). A nested struct with a conf tag prefixes its
// keys: S3 struct{...} `conf:"s3"` gives "s3-endpoint", in the file also
// "s3: {endpoint: ...}".
//
// Everything is strict: an unknown flag, file key or variable with the service's
// prefix is a problem, because a misspelt setting that is silently ignored is worse
// than a service that does not start. A key tagged secret never comes from the
// command line, which every process on the host can read: it comes from the
// environment, the file, or the file named by its "-file" twin (--dsn-file).
//
// Types: string, bool, the integers, float64, time.Duration, Bytes, Secret,
// []string (comma separated), map[string]string (k=v, comma separated) and
// whatever implements encoding.TextUnmarshaler.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"reflect"
	"sort"
	"strings"
)

// Validator is implemented by a Config with rules beyond single fields. Validate
// returns one sentence per problem, each naming the key and what to do. It is
// called only when every field could be read, so it may trust their values.
type Validator interface{ Validate() []string }

// Error holds every problem found. It exits with the code of a usage error.
type Error struct {
	Service  string
	Problems []string
}

func (e *Error) Error() string {
	if len(e.Problems) == 1 {
		return "configuration: " + e.Problems[0]
	}
	return fmt.Sprintf("configuration has %d problems:\n  - %s\n(--help lists every setting)", len(e.Problems), strings.Join(e.Problems, "\n  - "))
}

// ExitCode makes lifecycle.Main exit with 2, as flag errors do elsewhere.
func (e *Error) ExitCode() int { return 2 }

// Load fills into, a pointer to a struct, for a service from args (os.Args[1:]) and
// the environment. It returns flag.ErrHelp after printing the usage for --help,
// and an *Error with all problems otherwise. Values already in the struct are
// kept where nothing sets them and there is no default.
func Load(service string, into any, args []string) error {
	return load(service, into, args, os.Environ(), os.Stdout)
}

func load(service string, into any, args, environ []string, help io.Writer) error {
	l := &loader{service: service, prefix: envPrefix(service)}
	l.collect(reflect.ValueOf(into).Elem(), "")
	sort.SliceStable(l.fields, func(i, j int) bool { return l.fields[i].key < l.fields[j].key })

	flags, err := l.parseFlags(args)
	if errors.Is(err, flag.ErrHelp) {
		return errors.Join(l.usage(help), err)
	}
	env := l.parseEnv(environ)
	file := l.parseFile(flags, env)

	for _, f := range l.fields {
		l.assign(f, flags, env, file)
	}
	if len(l.problems) == 0 {
		if v, ok := into.(Validator); ok {
			l.problems = v.Validate()
		}
	}
	if len(l.problems) > 0 {
		return &Error{Service: service, Problems: l.problems}
	}
	return nil
}

type loader struct {
	service  string
	prefix   string
	fields   []field
	problems []string
}

type field struct {
	key      string
	value    reflect.Value
	def      string
	hasDef   bool
	usage    string
	required bool
	secret   bool
}

func (l *loader) problem(format string, args ...any) {
	l.problems = append(l.problems, fmt.Sprintf(format, args...))
}

func envPrefix(service string) string {
	return "TRAINYARD_" + strings.ToUpper(strings.ReplaceAll(service, "-", "_")) + "_"
}

func (l *loader) envName(key string) string {
	return l.prefix + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
}

// collect walks the struct. Wrong tags are a programming error: it panics.
func (l *loader) collect(v reflect.Value, prefix string) {
	t := v.Type()
	for i := range t.NumField() {
		sf := t.Field(i)
		tag, ok := sf.Tag.Lookup("conf")
		if sf.Anonymous && !ok && sf.Type.Kind() == reflect.Struct {
			l.collect(v.Field(i), prefix)
			continue
		}
		if !ok || tag == "-" {
			continue
		}
		key := prefix + tag
		if sf.Type.Kind() == reflect.Struct && !isText(v.Field(i)) {
			l.collect(v.Field(i), key+"-")
			continue
		}
		if !supported(v.Field(i)) {
			panic(fmt.Sprintf("config: field %s.%s has the unsupported type %s", t, sf.Name, sf.Type))
		}
		def, hasDef := sf.Tag.Lookup("default")
		l.fields = append(l.fields, field{
			key: key, value: v.Field(i), def: def, hasDef: hasDef, usage: sf.Tag.Get("usage"),
			required: sf.Tag.Get("required") == "true",
			secret:   sf.Tag.Get("secret") == "true" || sf.Type == reflect.TypeFor[Secret](),
		})
	}
}

func (l *loader) lookup(key string) (field, bool) {
	for _, f := range l.fields {
		if f.key == key {
			return f, true
		}
	}
	return field{}, false
}

// assign gives one field the value of the first source that has it.
func (l *loader) assign(f field, flags, env map[string]string, file map[string]fileValue) {
	source, text, found := "", "", false
	if v, ok := flags[f.key]; ok {
		source, text, found = "--"+f.key, v, true
	} else if v, ok := env[f.key]; ok {
		source, text, found = l.envName(f.key), v, true
	} else if v, ok := file[f.key]; ok {
		source, text, found = v.where, v.text, true
	}
	if f.secret {
		if path, from := l.secretFile(f, flags, env, file); path != "" {
			if found {
				l.problem("%s: set twice, by %s and by %s; keep one", f.key, source, from)
				return
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				l.problem("%s: %s: %v", f.key, from, err)
				return
			}
			source, text, found = from, strings.TrimRight(string(raw), "\r\n"), true
		}
	}
	if !found && f.hasDef {
		source, text, found = "default", f.def, true
	}
	if found {
		if err := set(f.value, text); err != nil {
			shown := fmt.Sprintf("%q", text)
			if f.secret {
				shown = "its value"
			}
			l.problem("%s: %s: %s %v", f.key, source, shown, err)
			return
		}
	}
	if f.required && f.value.IsZero() {
		how := "--" + f.key + " or " + l.envName(f.key)
		if f.secret {
			how = l.envName(f.key) + " or --" + f.key + "-file"
		}
		l.problem("%s: required (%s); set %s", f.key, f.usage, how)
	}
}

func (l *loader) secretFile(f field, flags, env map[string]string, file map[string]fileValue) (path, source string) {
	twin := f.key + "-file"
	if v, ok := flags[twin]; ok {
		return v, "--" + twin
	}
	if v, ok := env[twin]; ok {
		return v, l.envName(twin)
	}
	if v, ok := file[twin]; ok {
		return v.text, v.where
	}
	return "", ""
}
