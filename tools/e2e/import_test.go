//go:build e2e

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// A checkpoint of the old scripts becomes a version like any other: promoted, downloaded with its digests, found by MLflow. A file
// that would run code becomes nothing.
func TestAnOldCheckpointBecomesAVersion(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	files := filepath.Join("..", "..", "libs", "pth", "testdata")
	if out, errs, err := y.trainyard("import", filepath.Join(files, "state_dict.zip.p2.pth"), "--model=bull_specialist", "--as-is",
		"--metric=validation/sharpe=1.25", "--note=author=ana"); err != nil {
		t.Fatalf("import: %v\n%s%s", err, out, errs)
	}
	version := y.promote(ctx, t, "bull_specialist")
	if got := version.GetMetrics()["validation/sharpe"]; got != 1.25 {
		t.Errorf("the imported figure is %v, want 1.25", got)
	}
	y.digests(ctx, t, version)
	run, err := y.Runs.GetRun(ctx, &registryv1.GetRunRequest{RunId: version.GetRunId()})
	if err != nil {
		t.Fatal(err)
	}
	if text := run.String(); !strings.Contains(text, "ana") {
		t.Errorf("the run does not say where the weights come from: %s", text)
	}
	out, errs, err := y.trainyard("import", filepath.Join(files, "hostile_system.zip.pth"), "--model=hostile", "--as-is")
	if err == nil || !strings.Contains(out+errs, "system") {
		t.Errorf("a file that runs code: %v\n%s%s", err, out, errs)
	}
	if _, err := y.Models.GetModel(ctx, &registryv1.GetModelRequest{ModelName: "hostile"}); err == nil {
		t.Error("a file that runs code was registered")
	}
}
