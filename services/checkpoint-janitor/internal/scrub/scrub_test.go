package scrub_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// catalogue is the registry's side: what it knows, what it was told, what it can repair.
type catalogue struct {
	objects    []inventory.Object
	told       []string
	repairable map[string]bool
}

func (c *catalogue) Objects(context.Context) ([]inventory.Object, error) { return c.objects, nil }

func (c *catalogue) ReportBad(_ context.Context, key, _ string) (bool, string, error) {
	c.told = append(c.told, key)
	return c.repairable[key], "told", nil
}

type yard struct {
	bucket *objectstore.Store
	store  *postgres.Store
	catalogue
}

func setup(t *testing.T) *yard {
	t.Helper()
	return &yard{bucket: s3test.New(t), store: postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations)), catalogue: catalogue{repairable: map[string]bool{}}}
}

func (y *yard) scrubber() *scrub.Scrubber {
	return &scrub.Scrubber{Bucket: y.bucket, Store: y.store, Catalogue: &y.catalogue}
}

func (y *yard) put(t *testing.T, content []byte) (key string) {
	t.Helper()
	digest := objectstore.Digest(content)
	key = "blobs/" + digest[:2] + "/" + digest + ".1"
	if _, err := y.bucket.PutBytes(t.Context(), key, content); err != nil {
		t.Fatal(err)
	}
	y.objects = append(y.objects, inventory.Object{Key: key, SHA256: digest, ObjectSHA256: digest, Bytes: int64(len(content)), Proven: true, Holders: 1})
	return key
}

// One flipped bit anywhere in an object is found and reported; intact objects are not blamed.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	y := setup(t)
	r := rand.New(rand.NewPCG(1, 2))
	flipped := map[string]bool{}
	for i := range 60 {
		content := make([]byte, 1+r.IntN(4000))
		for k := range content {
			content[k] = byte(r.Uint32())
		}
		key := y.put(t, content)
		if i%3 == 0 {
			bit := r.IntN(8 * len(content))
			content[bit/8] ^= 1 << (bit % 8)
			if _, err := y.bucket.PutBytes(t.Context(), key, content); err != nil { // behind the catalogue's back
				t.Fatal(err)
			}
			flipped[key] = true
		}
	}
	got, err := y.scrubber().Round(t.Context(), now, time.Hour)
	if err != nil || got.Objects != 60 || len(got.Bad) != len(flipped) || !got.Oldest.Equal(now) || len(y.told) != len(flipped) {
		t.Fatalf("got %+v, %v; %d objects were flipped, %d reported", got, err, len(flipped), len(y.told))
	}
	for _, f := range got.Bad {
		if !flipped[f.Key] {
			t.Errorf("%s is blamed", f.Key)
		}
	}
	bad, err := y.store.CorruptContents(t.Context())
	if err != nil || len(bad) != len(flipped) {
		t.Fatalf("%d contents on record, %v", len(bad), err)
	}
}

// What was repaired from another copy counts as unread again, and not as corrupt.
func TestARepairedContentIsGoodAgain(t *testing.T) {
	t.Parallel()
	y := setup(t)
	key := y.put(t, []byte("content"))
	if _, err := y.bucket.PutBytes(t.Context(), key, []byte("kontent")); err != nil {
		t.Fatal(err)
	}
	y.repairable[key] = true
	got, err := y.scrubber().Round(t.Context(), now, time.Hour)
	if err != nil || len(got.Bad) != 1 || !got.Bad[0].Repaired {
		t.Fatalf("got %+v %v", got, err)
	}
	if bad, err := y.store.CorruptContents(t.Context()); err != nil || len(bad) != 0 {
		t.Fatalf("still bad: %v %v", bad, err)
	}
}

// Only what something needs is read.
func TestOnlyWantedContentsAreRead(t *testing.T) {
	t.Parallel()
	y := setup(t)
	for i := range 5 {
		y.put(t, fmt.Appendf(nil, "content %d", i))
	}
	s := y.scrubber()
	if first, err := s.Round(t.Context(), now, time.Hour); err != nil || first.Objects != 5 {
		t.Fatalf("new objects: %+v %v", first, err)
	}
	for i := range y.objects {
		y.objects[i].Holders = 0
	}
	y.put(t, []byte("later"))
	second, err := s.Round(t.Context(), now.Add(time.Hour), time.Hour)
	if err != nil || second.Objects != 1 || second.Bytes != int64(len("later")) {
		t.Fatalf("only what is wanted: %+v %v", second, err)
	}
}

// Objects of 8 MiB, a share of 64 MiB a round: the longest unread come first,
// and no object is read twice before each has been read once.
func TestRoundsTakeTurns(t *testing.T) {
	t.Parallel()
	b := &counted{read: map[string]int{}}
	c := &catalogue{}
	for i := range 40 {
		digest := fmt.Sprintf("%064x", i)
		c.objects = append(c.objects, inventory.Object{Key: digest, SHA256: digest, ObjectSHA256: digest, Bytes: 8 << 20, Proven: true, Holders: 1})
	}
	s := &scrub.Scrubber{Bucket: b, Store: readings{}, Catalogue: c}
	for round := range 6 {
		got, err := s.Round(t.Context(), now.Add(time.Duration(round)*time.Hour), time.Hour)
		want := 8
		if round == 0 {
			want = 40 // all are new
		}
		if err != nil || got.Objects != want {
			t.Fatalf("round %d read %d objects, want %d, %v", round, got.Objects, want, err)
		}
	}
	for key, n := range b.read {
		if n != 2 {
			t.Errorf("%s was read %d times in two passes", key, n)
		}
	}
}

// readings and counted stand for a store whose bytes do not matter.
type readings map[string]scrub.Check

func (r readings) Checks(context.Context) (map[string]scrub.Check, error) { return r, nil }
func (r readings) SaveCheck(_ context.Context, c scrub.Check) error {
	r[c.Digest] = c
	return nil
}

func (r readings) ForgetCheck(_ context.Context, digest string) error {
	delete(r, digest)
	return nil
}

type counted struct{ read map[string]int }

func (c *counted) Get(_ context.Context, key, _ string) (io.ReadCloser, error) {
	c.read[key]++
	return io.NopCloser(strings.NewReader("")), nil
}

// One object that is gone is reported; that a sweep has just deleted is not, and a store
// that has lost half of all is doubted itself.
func TestMissingObjects(t *testing.T) {
	t.Parallel()
	y := setup(t)
	var keys []string
	for i := range 8 {
		keys = append(keys, y.put(t, fmt.Appendf(nil, "content %d", i)))
	}
	lose := func(key string) {
		if err := y.bucket.Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	lose(keys[0])
	lose(keys[1])
	s := y.scrubber()
	s.Catalogue = forgetful{&y.catalogue, keys[1], new(int)}
	got, err := s.Round(t.Context(), now, time.Hour)
	if err != nil || len(got.Bad) != 1 || !got.Bad[0].Missing || got.Bad[0].Key != keys[0] {
		t.Fatalf("got %+v %v", got, err)
	}
	for _, key := range keys[2:6] {
		lose(key)
	}
	y.told = nil
	if _, err := y.scrubber().Round(t.Context(), now.Add(time.Hour), time.Hour); err == nil || !strings.Contains(err.Error(), "right bucket") || len(y.told) != 0 {
		t.Fatalf("half a store: %v, reported %v", err, y.told)
	}
}

// forgetful is a registry that deletes one object while the scrub reads.
type forgetful struct {
	*catalogue
	key   string
	calls *int
}

func (f forgetful) Objects(ctx context.Context) ([]inventory.Object, error) {
	all, err := f.catalogue.Objects(ctx)
	*f.calls++
	if *f.calls == 1 {
		return all, err
	}
	var out []inventory.Object
	for _, o := range all {
		if o.Key != f.key {
			out = append(out, o)
		}
	}
	return out, err
}
