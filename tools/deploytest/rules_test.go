package deploytest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// ruleFile is the part of a Prometheus rule or rule test file that is read here.
type ruleFile struct {
	Groups []struct {
		Rules []struct {
			Alert, Expr string
			Annotations map[string]string
		}
	}
	Tests []struct {
		AlertRuleTest []struct {
			Alertname string
			ExpAlerts []any `yaml:"exp_alerts"`
		} `yaml:"alert_rule_test"`
	}
}

func readRules(t *testing.T, pattern string) []ruleFile {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(root, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no files match %s: %v", pattern, err)
	}
	files := make([]ruleFile, len(names))
	for i, name := range names {
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(content, &files[i]); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	return files
}

func TestEveryAlertTellsWhatToDoAndHasATestThatFiresIt(t *testing.T) {
	t.Parallel()
	fired := map[string]bool{}
	for _, file := range readRules(t, "deploy/prometheus/tests/*.yaml") {
		for _, test := range file.Tests {
			for _, alert := range test.AlertRuleTest {
				fired[alert.Alertname] = fired[alert.Alertname] || len(alert.ExpAlerts) > 0
			}
		}
	}
	for _, file := range readRules(t, "deploy/prometheus/rules/*.yaml") {
		for _, group := range file.Groups {
			for _, rule := range group.Rules {
				if rule.Annotations["summary"] == "" || rule.Annotations["action"] == "" {
					t.Errorf("%s has no summary or no action", rule.Alert)
				}
				if !fired[rule.Alert] {
					t.Errorf("%s has no test in which it fires", rule.Alert)
				}
			}
		}
	}
}

// TestRulesAskForMetricsThatExist looks for each metric's name as a literal in the product's code, in full or without the
// namespace that all of ours share.
func TestRulesAskForMetricsThatExist(t *testing.T) {
	t.Parallel()
	var source strings.Builder
	for _, dir := range []string{"libs", "services", "tools/internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
				return err
			}
			content, err := os.ReadFile(name)
			source.Write(content)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	metric := regexp.MustCompile(`\b(?:trainyard|rpc)_[a-z0-9_]+\b`)
	suffix := regexp.MustCompile(`_(?:bucket|count|sum)$`)
	// Labels look like metrics to the expression above; everything in braces and after by() is a label.
	labels := regexp.MustCompile(`\{[^}]*\}|\b(?:by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)`)
	asked := 0
	for _, file := range readRules(t, "deploy/prometheus/rules/*.yaml") {
		for _, group := range file.Groups {
			for _, rule := range group.Rules {
				for _, name := range metric.FindAllString(labels.ReplaceAllString(rule.Expr, ""), -1) {
					asked++
					name = suffix.ReplaceAllString(name, "")
					if !strings.Contains(source.String(), `"`+name+`"`) && !strings.Contains(source.String(), `"`+strings.TrimPrefix(name, "trainyard_")+`"`) {
						t.Errorf("%s asks for %s, which no code exports", rule.Alert, name)
					}
				}
			}
		}
	}
	if asked == 0 {
		t.Error("no rule asks for any metric of ours")
	}
}
