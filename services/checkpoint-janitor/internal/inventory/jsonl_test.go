package inventory

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// An inventory that went through a file gives the same plan.
func TestJSONLKeepsEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		instant := rapid.Custom(func(t *rapid.T) time.Time {
			return time.UnixMilli(rapid.Int64Range(0, 2e12).Draw(t, "ms")).UTC()
		})
		v := retention.Inventory{Usage: retention.Usage{UsedBytes: rapid.Int64().Draw(t, "used"), CapacityBytes: rapid.Int64().Draw(t, "capacity")}}
		for i := range rapid.IntRange(0, 6).Draw(t, "n") {
			c := retention.Checkpoint{
				ID: fmt.Sprint("c", i), Experiment: rapid.String().Draw(t, "experiment"), RunID: rapid.String().Draw(t, "run"), Step: rapid.Int64().Draw(t, "step"),
				CreateTime: instant.Draw(t, "created"), State: retention.State(rapid.IntRange(1, 6).Draw(t, "state")),
				Sharpe: rapid.SampledFrom([]retention.Metric{{}, retention.Measured(math.NaN()), retention.Measured(math.Inf(1)), retention.Measured(math.Inf(-1)),
					retention.Measured(0.1), retention.Measured(math.MaxFloat64), retention.Measured(5e-324), retention.Measured(math.Copysign(0, -1))}).Draw(t, "sharpe"),
				Trades: rapid.Int64().Draw(t, "trades"), Window: rapid.String().Draw(t, "window"), RunActive: rapid.Bool().Draw(t, "active"), Uncommitted: rapid.Bool().Draw(t, "uncommitted"),
				Resumable: rapid.Bool().Draw(t, "resumable"), Archived: rapid.Bool().Draw(t, "archived"), Parents: rapid.SliceOfN(rapid.String(), 0, 2).Draw(t, "parents"),
			}
			if rapid.Bool().Draw(t, "more") {
				c.TombstoneTime, c.LastUse = instant.Draw(t, "tombstone"), instant.Draw(t, "use")
				c.References = []retention.Reference{{Kind: retention.ReferenceKind(rapid.IntRange(1, 12).Draw(t, "kind")), Detail: rapid.String().Draw(t, "detail"), Until: instant.Draw(t, "until")}}
				c.Files = []retention.File{{Digest: rapid.String().Draw(t, "digest"), Bytes: rapid.Int64().Draw(t, "bytes")}}
			}
			v.Checkpoints = append(v.Checkpoints, c)
		}
		var b bytes.Buffer
		if err := WriteJSONL(&b, v); err != nil {
			t.Fatal(err)
		}
		back, err := ReadJSONL(&b)
		if err != nil {
			t.Fatal(err)
		}
		if back.Hash() != v.Hash() {
			t.Fatalf("wrote %+v\nread %+v", v, back)
		}
	})
}

func TestBadLinesAreAllReported(t *testing.T) {
	t.Parallel()
	_, err := ReadJSONL(strings.NewReader(strings.Join([]string{
		`{"checkpoint_id":"a","create_time":"2026-01-01T00:00:00Z"}`, ``, `{"checkpoint_id":"b","sharp":1}`, `{"experiment":"x"}`,
		`{"checkpoint_id":"c","sharpe":"high"}`, `{"checkpoint_id":"d"} {"checkpoint_id":"e"}`, `[`,
	}, "\n")))
	if err == nil {
		t.Fatal("bad lines were read")
	}
	for _, want := range []string{"line 3:", `unknown field "sharp"`, "line 4: no checkpoint_id", `line 5: "high" is no number`, "line 6: more than one object", "line 7:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q in %v", want, err)
		}
	}
	if strings.Contains(err.Error(), "line 1:") {
		t.Errorf("a good line is blamed: %v", err)
	}
}

func TestKeysNameTheirContent(t *testing.T) {
	t.Parallel()
	digest := strings.Repeat("0a", 32)
	for key, want := range map[string]string{
		"blobs/0a/" + digest + ".0": digest, "blobs/0a/" + digest + ".17": digest, digest: digest, "x/" + digest: digest,
		"blobs/" + digest + "/readme": "", "x" + digest: "", digest + "0": "", strings.ToUpper(digest): "", digest + ".tmp": "", "": "",
	} {
		if got, ok := DigestOf(key); got != want || ok != (want != "") {
			t.Errorf("%q: got %q %v", key, got, ok)
		}
	}
}

func FuzzReadJSONL(f *testing.F) {
	seed, err := os.ReadFile("testdata/mixed.jsonl")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := ReadJSONL(bytes.NewReader(text))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := WriteJSONL(&b, v); err != nil {
			t.Skip() // years that no calendar prints
		}
		if back, err := ReadJSONL(&b); err != nil || back.Hash() != v.Hash() {
			t.Fatalf("a read inventory does not survive a file: %v", err)
		}
	})
}
