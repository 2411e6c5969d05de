package archtest

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
)

// written are the endings of files that people write and read.
var written = []string{".go", ".s", ".proto", ".sql", ".py", ".ts", ".sh", ".yaml", ".yml", ".md", ".html", ".css", ".js"}

// notOurs are directories, below the root or anywhere, whose files are generated, vendored or data.
var notOurs = []string{".git", ".cache", ".trainyard", "bin", "node_modules", ".venv", "__pycache__", "testdata", "third_party", "proto/gen"}

// generated is the sentence by which Go's tools, and ours, know a file that nobody edits.
var generated = regexp.MustCompile(`(?m)^(//|#|--|/\*) Code generated .* DO NOT EDIT\.`)

// checkFileSize: no file that a person writes is longer than maxLines.
func checkFileSize(t *Tree, report func(place, problem string)) {
	err := filepath.WalkDir(t.Root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(t.Root, name)
		if err != nil {
			return err
		}
		relative = filepath.ToSlash(relative)
		if entry.IsDir() {
			if slices.Contains(notOurs, relative) || slices.Contains(notOurs, path.Base(relative)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !slices.Contains(written, path.Ext(relative)) || !entry.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if generated.Match(content) {
			return nil
		}
		if lines := bytes.Count(content, []byte("\n")); lines > maxLines {
			report(relative, fmt.Sprintf("has %d lines, more than %d: it holds more than one thought", lines, maxLines))
		}
		return nil
	})
	if err != nil {
		report(".", "cannot be read: "+err.Error())
	}
}
