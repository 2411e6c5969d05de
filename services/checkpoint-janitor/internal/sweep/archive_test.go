package sweep_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryfake"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// archiving is a policy that archives at once and drops optimizer state.
const archiving = `version: 1
revision: archiving-1
development: true
grace: 0s
rules:
  - experiments: ["*"]
    young_for: 0s
    drop_outranked_after: never
    archive_after: 1h
    delete_abandoned_after: never
    drop_files: ["file1"]
`

func (w *world) archivePolicy(t *testing.T) {
	t.Helper()
	w.policy = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(w.policy, []byte(archiving), 0o600); err != nil {
		t.Fatal(err)
	}
}

// keepFiles archives without dropping anything.
func (w *world) keepFiles(t *testing.T) {
	t.Helper()
	if err := os.WriteFile(w.policy, []byte(strings.Replace(archiving, "    drop_files: [\"file1\"]\n", "", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func weights(n int) string {
	return strings.Repeat(fmt.Sprintf("weights of checkpoint %d. ", n), 200)
}

// fillArchive commits four of one experiment: one is production, two share their weights.
func (w *world) fillArchive(t *testing.T) {
	t.Helper()
	w.archivePolicy(t)
	for n := range 4 {
		text := weights(n)
		if n == 3 {
			text = weights(2)
		}
		w.registry.Commit(t, id(n), "bull", time.Duration(20-n)*time.Hour, 2-float64(n)/10, text, fmt.Sprint("optimizer ", n))
	}
	w.registry.Root(id(0), registryv1.Root_KIND_PRODUCTION, "version 1 of bull_specialist")
}

// checkArchive says that exactly 1 to 3 are archived, that their weights unpack to what they
// were, that their optimizer state and hot bytes are gone, and that nothing is left over.
func (w *world) checkArchive(t *testing.T) {
	t.Helper()
	want := []string{registryfake.Key(objectstore.Digest([]byte(weights(0)))), registryfake.Key(objectstore.Digest([]byte("optimizer 0")))}
	got := map[string]bool{}
	for _, key := range w.keys(t) {
		if !strings.HasPrefix(key, "cold/") {
			if !slices.Contains(want, key) {
				t.Errorf("%s is left in the hot tier", key)
			}
			continue
		}
		packed, err := w.bucket.GetBytes(t.Context(), key, "", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var raw bytes.Buffer
		base, err := checkpointcodec.Base(bytes.NewReader(packed))
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		if base == nil {
			_, err = checkpointcodec.Decode(&raw, bytes.NewReader(packed), nil)
		} else { // the difference to the other one
			_, err = checkpointcodec.Decode(&raw, bytes.NewReader(packed), strings.NewReader(weights(1)))
		}
		if err != nil {
			t.Fatalf("%s: %v", key, err)
		}
		got[raw.String()] = true
	}
	if len(got) != 2 || !got[weights(1)] || !got[weights(2)] {
		t.Errorf("the cold tier holds %d contents", len(got))
	}
	for _, key := range want {
		if _, err := w.bucket.Stat(t.Context(), key); err != nil {
			t.Errorf("production lost %s: %v", key, err)
		}
	}
	for n := range 4 {
		tier := registryv1.StorageTier_STORAGE_TIER_COLD
		if n == 0 {
			tier = 0
		}
		if w.registry.Tier(id(n)) != tier || w.registry.State(id(n)) != registryv1.Checkpoint_STATE_LIVE {
			t.Errorf("checkpoint %d is %v in %v", n, w.registry.State(id(n)), w.registry.Tier(id(n)))
		}
	}
}

func TestAnArchiveKilledAtAnyStepResumes(t *testing.T) {
	t.Parallel()
	whole := &axe{}
	w := newWorld(t)
	w.fillArchive(t)
	first := w.open(t, nil)
	if _, err := w.sweeper(t, whole).Run(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.checkArchive(t)
	work, err := w.store.AllWork(t.Context(), first)
	if err != nil || len(work) != 3 {
		t.Fatalf("%d items, %v", len(work), err)
	}
	for _, o := range work {
		if o.Phase != retention.PhaseDone || o.DroppedBytes != int64(len("optimizer 1")) {
			t.Errorf("on record: %+v", o)
		}
	}
	if whole.calls < 20 {
		t.Fatalf("an archive makes %d calls; the axe misses some", whole.calls)
	}
	for at := 1; at <= whole.calls; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("call %d, effect %v", at, after), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.fillArchive(t)
				sweepID := w.open(t, nil)
				if _, err := w.sweeper(t, &axe{at: at, after: after}).Run(t.Context(), sweepID); !errors.Is(err, errKilled) {
					t.Fatalf("the axe fell at call %d, the sweep says %v", at, err)
				}
				if err := w.sweeper(t, nil).Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
				w.checkArchive(t)
			})
		}
	}
}

// A policy that drops nothing keeps every file.
func TestArchivesKeepEveryFileUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fillArchive(t)
	w.keepFiles(t)
	sweepID := w.open(t, nil)
	if _, err := w.sweeper(t, nil).Run(t.Context(), sweepID); err != nil {
		t.Fatal(err)
	}
	cold := 0
	for _, key := range w.keys(t) {
		if strings.HasPrefix(key, "cold/") {
			cold++
		}
	}
	if cold != 5 { // two weights, three optimizer states
		t.Errorf("%d contents in the cold tier", cold)
	}
}

// Hot bytes that rotted before they were archived are not packed: the checkpoint is quarantined.
func TestRottenBytesAreNotArchived(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fillArchive(t)
	if _, err := w.bucket.PutBytes(t.Context(), registryfake.Key(objectstore.Digest([]byte(weights(1)))), []byte(strings.ToUpper(weights(1)))); err != nil {
		t.Fatal(err)
	}
	sweepID := w.open(t, nil)
	if _, err := w.sweeper(t, nil).Run(t.Context(), sweepID); err != nil {
		t.Fatal(err)
	}
	if s := w.registry.State(id(1)); s != registryv1.Checkpoint_STATE_CORRUPT {
		t.Errorf("it is %v", s)
	}
	if s := w.registry.Tier(id(2)); s != registryv1.StorageTier_STORAGE_TIER_COLD {
		t.Errorf("the next one is in %v: one bad file stops the others", s)
	}
}

// Orphans are removed when their grace is over, foreign objects never.
func TestOrphansGoAfterTheirGraceAndForeignObjectsNever(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	put := func(key string) {
		if _, err := w.bucket.PutBytes(t.Context(), key, []byte("left over")); err != nil {
			t.Fatal(err)
		}
	}
	orphan := registryfake.Key(objectstore.Digest([]byte("orphan")))
	coldOrphan := "cold/" + strings.TrimPrefix(orphan, "blobs/")
	foreign := []string{"backups/" + orphan, "bull_v2.pth", "blobs/readme.txt", "cold/x", strings.Replace(orphan, "blobs/", "blobs/x", 1)}
	put(orphan)
	put(coldOrphan)
	for _, key := range foreign {
		put(key)
	}
	done, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, nil))
	if err != nil || done.State != sweep.Done {
		t.Fatalf("got %+v, %v", done, err)
	}
	left := w.keys(t)
	if slices.Contains(left, orphan) || slices.Contains(left, coldOrphan) {
		t.Error("an orphan is left after its grace, which is nothing here")
	}
	for _, key := range foreign {
		if !slices.Contains(left, key) {
			t.Errorf("%s is not ours and gone", key)
		}
	}
}

// The drill restores what is archived and what is not, and notices damage in either tier.
func TestTheDrillNoticesWhatCannotBeRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fillArchive(t)
	if _, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, nil)); err != nil {
		t.Fatal(err)
	}
	d := &drill.Drill{Catalogue: w.client, Bucket: w.bucket, Scratch: t.TempDir()}
	got, err := d.Run(t.Context(), 10, 1)
	if err != nil || got.Checkpoints != 4 || len(got.Failures) != 0 {
		t.Fatalf("got %+v %v", got, err)
	}
	for _, key := range w.keys(t) {
		if !strings.HasPrefix(key, "cold/") {
			continue
		}
		b, err := w.bucket.GetBytes(t.Context(), key, "", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-20] ^= 1
		if _, err := w.bucket.PutBytes(t.Context(), key, b); err != nil {
			t.Fatal(err)
		}
	}
	if got, err = d.Run(t.Context(), 10, 1); err != nil || len(got.Failures) != 3 {
		t.Fatalf("damaged: %+v %v", got, err)
	}
	if left, err := os.ReadDir(d.Scratch); err != nil || len(left) > 0 {
		t.Errorf("left on the disk: %v %v", left, err)
	}
}
