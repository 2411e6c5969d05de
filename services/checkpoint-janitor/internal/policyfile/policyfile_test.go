package policyfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

func TestBuiltinDefaultIsTheDocumentedDefault(t *testing.T) {
	t.Parallel()
	p, text, err := Load("")
	if err != nil {
		t.Fatal(err)
	}
	if p.Hash() != retention.DefaultPolicy().Hash() {
		t.Fatalf("default.yaml and retention.DefaultPolicy differ:\n%+v\n%+v", p, retention.DefaultPolicy())
	}
	again, err := Parse(text)
	if err != nil || again.Hash() != p.Hash() {
		t.Fatalf("the stored text reads differently: %v", err)
	}
}

func TestDevelopmentPolicyWaitsForNothing(t *testing.T) {
	t.Parallel()
	p, _, err := Load(BuiltinDevelopment)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Development || p.Grace != 0 || p.Rules[0].YoungFor != 0 {
		t.Fatalf("got %+v", p)
	}
}

func TestOmittedKeysKeepTheirDefaults(t *testing.T) {
	t.Parallel()
	p, err := Parse([]byte("version: 1\nrevision: x\nrules:\n  - experiments: [\"a*\"]\n    keep_top: 9\n    archive_after: never\n    delete_abandoned_after: never\ncaps:\n  small_drop_bytes: 2.5GB\n  max_drop_fraction: 0.25\n"))
	if err != nil {
		t.Fatal(err)
	}
	r := p.Rules[0]
	if r.KeepTop != 9 || r.KeepLastPerLiveJob != 2 || r.ArchiveAfter != retention.Never || r.YoungFor != 7*24*time.Hour ||
		p.Caps.SmallDropBytes != 2_500_000_000 || p.Caps.MaxDropFraction != 0.25 || p.Caps.SmallMissing != 3 || p.Grace != 7*24*time.Hour {
		t.Fatalf("got %+v", p)
	}
}

func TestEveryProblemIsNamedWithItsLine(t *testing.T) {
	t.Parallel()
	_, err := Parse([]byte(`version: one
revision: ""
graze: 7d
grace: soon
rules:
  - experiments: all
    keep_top: 0
    keep_top: 5
    young_for: 99999999d
caps: [1]
watermark: {alert_at: most, keep_top: 0}
`))
	var pe *retention.PolicyError
	if !errors.As(err, &pe) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{
		`version: is "one"; give a whole number (line 1)`, "revision: is empty", "graze: is no key of a retention policy; known here: caps,",
		`grace: is "soon"; give an age such as 30d`, "rules[0].experiments: must be a list (line 6)", "rules[0].keep_top: is given twice (line 8)",
		"rules[0].young_for:", "caps: must be a mapping", `watermark.alert_at: is "most"`, "watermark.keep_top: is 0",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in\n%v", want, err)
		}
	}
}

func TestEmptyAndBrokenFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for text, want := range map[string]string{
		"": "empty policy is refused", "# nothing\n": "empty policy is refused", "rules: []\nversion: 1\nrevision: x\n": "rules: is empty",
		"a: [": "not YAML", "- 1\n": "must be a mapping",
	} {
		path := filepath.Join(dir, "p.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
	if _, _, err := Load("builtin:none"); err == nil || !strings.Contains(err.Error(), BuiltinDevelopment) {
		t.Errorf("got %v", err)
	}
	if _, _, err := Load(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(defaultText)
	f.Add([]byte("a: &a [*a]\n"))
	f.Add([]byte("rules: &r\n - *r\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text)
		if err == nil && p.Validate() != nil {
			t.Fatal("an invalid policy was accepted")
		}
	})
}
