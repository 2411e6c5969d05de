package scrub_test

import (
	"context"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

type yard struct {
	bucket *objectstore.Store
	store  *postgres.Store
	wanted map[string]bool
}

func setup(t *testing.T) *yard {
	t.Helper()
	return &yard{bucket: s3test.New(t), store: postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations)), wanted: map[string]bool{}}
}

func (y *yard) scrubber() *scrub.Scrubber {
	return &scrub.Scrubber{Bucket: y.bucket, Store: y.store, Wanted: func(context.Context) (map[string]bool, error) { return y.wanted, nil }}
}

func (y *yard) put(t *testing.T, content []byte) (key string) {
	t.Helper()
	digest := objectstore.Digest(content)
	key = "blobs/" + digest[:2] + "/" + digest + ".0"
	if _, err := y.bucket.PutBytes(t.Context(), key, content); err != nil {
		t.Fatal(err)
	}
	y.wanted[digest] = true
	return key
}

// One flipped bit anywhere in an object is found; intact objects are not blamed.
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
	if err != nil || got.Objects != 60 || len(got.Corrupt) != len(flipped) || !got.Oldest.Equal(now) {
		t.Fatalf("got %+v, %v; %d objects were flipped", got, err, len(flipped))
	}
	for _, c := range got.Corrupt {
		if !flipped[c.Key] {
			t.Errorf("%s is blamed", c.Key)
		}
	}
	bad, err := y.store.CorruptContents(t.Context())
	if err != nil || len(bad) != len(flipped) {
		t.Fatalf("%d contents on record, %v", len(bad), err)
	}
}

// Only what the catalogue wants is read.
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
	y.put(t, []byte("later"))
	y.wanted = map[string]bool{objectstore.Digest([]byte("later")): true}
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
	wanted := map[string]bool{}
	for i := range 40 {
		digest := fmt.Sprintf("%064x", i)
		b.objects = append(b.objects, objectstore.Object{Key: digest, Size: 8 << 20})
		wanted[digest] = true
	}
	store := readings{}
	s := &scrub.Scrubber{Bucket: b, Store: store, Wanted: func(context.Context) (map[string]bool, error) { return wanted, nil }}
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

type counted struct {
	objects []objectstore.Object
	read    map[string]int
}

func (c *counted) List(context.Context, string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		for _, o := range c.objects {
			if !yield(o, nil) {
				return
			}
		}
	}
}

func (c *counted) Get(_ context.Context, key, _ string) (io.ReadCloser, error) {
	c.read[key]++
	return io.NopCloser(strings.NewReader("")), nil
}

// What a sweep deletes while the scrub reads is no finding.
func TestAnObjectThatGoesAwayIsNoFinding(t *testing.T) {
	t.Parallel()
	y := setup(t)
	y.put(t, []byte("stays"))
	key := y.put(t, []byte("goes"))
	s := y.scrubber()
	s.Bucket = vanishing{y.bucket, key}
	got, err := s.Round(t.Context(), now, time.Hour)
	if err != nil || got.Objects != 1 || len(got.Corrupt) != 0 {
		t.Fatalf("got %+v %v", got, err)
	}
}

// vanishing deletes an object between its listing and its reading.
type vanishing struct {
	*objectstore.Store
	key string
}

func (v vanishing) Get(ctx context.Context, key, digest string) (io.ReadCloser, error) {
	if key == v.key {
		if err := v.Delete(ctx, key); err != nil {
			return nil, err
		}
	}
	return v.Store.Get(ctx, key, digest)
}
