//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What a newcomer sees: `trainyard demo` trains, promotes, sweeps, reports and stops with nothing left behind.
func TestTheDemoTellsTheWholeStory(t *testing.T) {
	state := stateDir(t)
	report := filepath.Join(t.TempDir(), "report.html")
	out, errs, err := run(filepath.Join(binDir(t), "trainyard"), "demo", "--state="+state, "--report="+report)
	if err != nil {
		t.Fatalf("demo: %v\n%s\n%s", err, out, errs)
	}
	for _, want := range []string{"bull_specialist", "bear_specialist", "sideways_specialist", "BUY&HOLD"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo's output does not name %q:\n%s", want, out)
		}
	}
	if ids := regexp.MustCompile(`\b[0-9a-f]{32}\b`).FindAllString(out, -1); len(ids) < 3 {
		t.Errorf("the closing table has %d trace ids, want 3:\n%s", len(ids), out)
	}
	page, err := os.ReadFile(report)
	if err != nil {
		t.Fatal(err)
	}
	html := string(page)
	for _, want := range []string{"<svg", "bull", "bear", "sideways"} {
		if !strings.Contains(html, want) {
			t.Errorf("the report has no %q", want)
		}
	}
	for _, external := range []string{"src=\"http", "href=\"http", "@import", "url(http"} {
		if strings.Contains(html, external) {
			t.Errorf("the report is not self-contained: it has %q", external)
		}
	}
	if left := processesOf(state); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
