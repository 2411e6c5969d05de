package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
)

func TestFindingsSayWhatAndWhen(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	if err := writeFindings(&out, &janitorv1.ListFindingsResponse{}); err != nil || !strings.Contains(out.String(), "agree") {
		t.Errorf("nothing found: %q %v", out.String(), err)
	}
	out.Reset()
	err := writeFindings(&out, &janitorv1.ListFindingsResponse{TotalCount: 7, Findings: []*janitorv1.Finding{
		{Kind: janitorv1.Finding_KIND_ORPHAN, ObjectKey: "blobs/ab/x.1", SizeBytes: 2048, Detail: "the catalogue does not know it",
			DueTime: timestamppb.New(time.Date(2026, 12, 1, 8, 30, 0, 0, time.UTC))},
		{Kind: janitorv1.Finding_KIND_FOREIGN, ObjectKey: "old.pth", Detail: "somebody else's"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"blobs/ab/x.1", "2026-12-01 08:30", "somebody else's", "2 of 7 findings"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("missing %q in\n%s", want, out.String())
		}
	}
}

// What needs no mesh goes to the janitor's own program, with its arguments, output and exit code.
func TestOfflineCommandsAreTheJanitorsOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "checkpoint-janitor"), []byte("#!/bin/sh\necho \"got $*\"\nexit 3\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	var out bytes.Buffer
	err := Run(t.Context(), []string{"janitor", "adopt", "--apply", "--policy", "p.yaml", "/data"}, &out, &out)
	var code interface{ ExitCode() int }
	if !errors.As(err, &code) || code.ExitCode() != 3 || !strings.Contains(out.String(), "got adopt --apply --policy p.yaml /data") {
		t.Errorf("got %v, %q", err, out.String())
	}
	t.Setenv("PATH", t.TempDir())
	if err := Run(t.Context(), []string{"janitor", "plan"}, &out, &out); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without the program: %v", err)
	}
}
