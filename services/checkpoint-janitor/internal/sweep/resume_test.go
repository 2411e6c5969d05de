package sweep_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/archive"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/metrics"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryapi"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryfake"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

var errKilled = errors.New("killed here")

// axe kills the process at one call: before it has any effect, or after it has
// all of it and the answer is lost.
type axe struct {
	calls, at int
	after     bool
	fallen    bool
	// die ends the process for real; nil only stops it from having any more effect.
	die func()
}

// swing runs one call under the axe. Once fallen, nothing more has an effect:
// the process is dead.
func swing[T any](a *axe, call func() (T, error)) (T, error) {
	var none T
	if a.fallen {
		return none, errKilled
	}
	a.calls++
	if a.calls != a.at {
		return call()
	}
	a.fallen = true
	if a.after {
		if _, err := call(); err != nil {
			return none, err
		}
	}
	if a.die != nil {
		a.die()
	}
	return none, errKilled
}

func (a *axe) do(call func() error) error {
	_, err := swing(a, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

type axedStore struct {
	*postgres.Store
	*axe
}

func (s axedStore) StartSweep(ctx context.Context, id, hash string, grace time.Duration, n int, work []sweep.Work, now time.Time) error {
	return s.do(func() error { return s.Store.StartSweep(ctx, id, hash, grace, n, work, now) })
}

func (s axedStore) FinishSweep(ctx context.Context, id string, now time.Time) error {
	return s.do(func() error { return s.Store.FinishSweep(ctx, id, now) })
}

func (s axedStore) Record(ctx context.Context, id string, done, follow []sweep.Work) error {
	return s.do(func() error { return s.Store.Record(ctx, id, done, follow) })
}

type axedRegistry struct {
	*registryapi.Client
	*axe
}

func (r axedRegistry) Tombstone(ctx context.Context, request, hash string, ids []string) ([]sweep.Result, error) {
	return swing(r.axe, func() ([]sweep.Result, error) { return r.Client.Tombstone(ctx, request, hash, ids) })
}

func (r axedRegistry) Restore(ctx context.Context, request string, ids []string) ([]sweep.Result, error) {
	return swing(r.axe, func() ([]sweep.Result, error) { return r.Client.Restore(ctx, request, ids) })
}

func (r axedRegistry) BeginDelete(ctx context.Context, request string, ids []string, grace time.Duration) (res []sweep.Result, keys []string, err error) {
	res, err = swing(r.axe, func() (out []sweep.Result, err error) {
		out, keys, err = r.Client.BeginDelete(ctx, request, ids, grace)
		return out, err
	})
	return res, keys, err
}

func (r axedRegistry) ConfirmDeleted(ctx context.Context, request string, ids []string) ([]sweep.Result, error) {
	return swing(r.axe, func() ([]sweep.Result, error) { return r.Client.ConfirmDeleted(ctx, request, ids) })
}

func (r axedRegistry) BeginArchive(ctx context.Context, id string, patterns []string) (archive.Job, error) {
	return swing(r.axe, func() (archive.Job, error) { return r.Client.BeginArchive(ctx, id, patterns) })
}

func (r axedRegistry) CommitArchive(ctx context.Context, id string, copies []archive.Copy, patterns []string, grace time.Duration) (archive.Result, error) {
	return swing(r.axe, func() (archive.Result, error) { return r.Client.CommitArchive(ctx, id, copies, patterns, grace) })
}

func (r axedRegistry) ReleaseObjects(ctx context.Context, request string, orphans []sweep.Orphan, grace time.Duration) ([]sweep.Result, error) {
	return swing(r.axe, func() ([]sweep.Result, error) { return r.Client.ReleaseObjects(ctx, request, orphans, grace) })
}

func (r axedRegistry) ConfirmRemoved(ctx context.Context, request string, keys []string) error {
	return r.do(func() error { return r.Client.ConfirmRemoved(ctx, request, keys) })
}

type axedObjects struct {
	*objectstore.Store
	*axe
}

func (o axedObjects) Get(ctx context.Context, key, digest string) (io.ReadCloser, error) {
	return swing(o.axe, func() (io.ReadCloser, error) { return o.Store.Get(ctx, key, digest) })
}

func (o axedObjects) Put(ctx context.Context, key string, r io.Reader, size int64, digest string) (objectstore.Object, error) {
	return swing(o.axe, func() (objectstore.Object, error) { return o.Store.Put(ctx, key, r, size, digest) })
}

func (o axedObjects) Delete(ctx context.Context, key string) error {
	return o.do(func() error { return o.Store.Delete(ctx, key) })
}

// world is one store with a registry, a bucket and the janitor's schema.
type world struct {
	registry *registryfake.Registry
	client   *registryapi.Client
	bucket   *objectstore.Store
	store    *postgres.Store
	policy   string
	capacity int64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	bucket := s3test.New(t)
	store := postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	registry := registryfake.New(bucket)
	client := registryapi.New(registryv1.NewRetentionServiceClient(registry.Serve(t)))
	return &world{registry: registry, client: client, bucket: bucket, store: store, policy: policyfile.BuiltinDevelopment}
}

// sweeper starts the janitor anew, as after a crash; nil is no axe.
func (w *world) sweeper(t *testing.T, a *axe) *sweep.Sweeper {
	t.Helper()
	if a == nil {
		a = &axe{}
	}
	policy, text, err := policyfile.Load(w.policy)
	if err != nil {
		t.Fatal(err)
	}
	meter := metrics.New(prometheus.NewRegistry())
	reader := inventory.Reader{Catalogue: w.client, Bucket: w.bucket, Holds: w.store, Readings: w.store, Room: inventory.FixedRoom(w.capacity)}
	planner := planning.New(w.store, reader, policy, text, meter)
	registry, objects := axedRegistry{w.client, a}, axedObjects{w.bucket, a}
	archiver := &archive.Archiver{Registry: registry, Hot: objects, Cold: objects, Scratch: t.TempDir(), Log: zap.NewNop()}
	return sweep.New(axedStore{w.store, a}, registry, objects, archiver, planner, meter, zap.NewNop())
}

func (w *world) open(t *testing.T, change func(*sweep.Sweep)) string {
	t.Helper()
	s := sweep.Sweep{ID: uuid.NewString(), Trigger: sweep.ByPerson, Caller: "person/ana", CreateTime: sweep.Now()}
	if change != nil {
		change(&s)
	}
	if err := w.store.OpenSweep(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	return s.ID
}

func id(n int) string { return fmt.Sprintf("00000000-0000-7000-8000-%012d", n) }

// fill commits one experiment of eight: five rank, one of the rest is
// production, one shares a content with the best, and one has diverged.
func (w *world) fill(t *testing.T) {
	t.Helper()
	for n := range 8 {
		contents := []string{fmt.Sprint("weights ", n), fmt.Sprint("optimizer ", n)}
		sharpe := 2 - float64(n)/10
		switch n {
		case 6:
			contents[0] = "weights 0"
		case 7:
			sharpe = math.NaN()
		}
		w.registry.Commit(t, id(n), "bull", time.Duration(20-n)*time.Hour, sharpe, contents...)
	}
	w.registry.Root(id(5), registryv1.Root_KIND_PRODUCTION, "version 1 of bull_specialist")
}

func (w *world) keys(t *testing.T) []string {
	t.Helper()
	var out []string
	for o, err := range w.bucket.List(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o.Key)
	}
	return out
}

// check says that exactly checkpoints 6 and 7 are gone, with exactly the bytes
// that nothing else holds.
func (w *world) check(t *testing.T, sweepID string) {
	t.Helper()
	for n := range 8 {
		want := registryv1.Checkpoint_STATE_LIVE
		if n >= 6 {
			want = registryv1.Checkpoint_STATE_DELETED
		}
		if got := w.registry.State(id(n)); got != want {
			t.Errorf("checkpoint %d is %v, want %v", n, got, want)
		}
	}
	var want []string
	for n := range 8 {
		for _, content := range []string{fmt.Sprint("weights ", n), fmt.Sprint("optimizer ", n)} {
			if n < 6 {
				want = append(want, registryfake.Key(objectstore.Digest([]byte(content))))
			}
		}
	}
	slices.Sort(want)
	if got := w.keys(t); !slices.Equal(got, want) {
		t.Errorf("the bucket holds\n%v\nwant\n%v", got, want)
	}
	work, err := w.store.AllWork(t.Context(), sweepID)
	if err != nil {
		t.Fatal(err)
	}
	var deleted, freed int64
	for _, o := range work {
		if o.Task == retention.TaskDelete && o.Phase == retention.PhaseDone {
			deleted++
			freed += o.FreedBytes
		}
	}
	if wantFreed := int64(len("optimizer 6" + "weights 7" + "optimizer 7")); deleted != 2 || freed != wantFreed {
		t.Errorf("the sweep says it deleted %d checkpoints and %d bytes, want 2 and %d", deleted, freed, wantFreed)
	}
}

func TestASweepKilledAtAnyStepResumes(t *testing.T) {
	t.Parallel()
	whole := &axe{}
	w := newWorld(t)
	w.fill(t)
	first := w.open(t, nil)
	if _, err := w.sweeper(t, whole).Run(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	w.check(t, first)
	if whole.calls < 9 {
		t.Fatalf("a sweep makes %d calls; the axe misses some", whole.calls)
	}
	for at := 1; at <= whole.calls; at++ {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("call %d, effect %v", at, after), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				w.fill(t)
				sweepID := w.open(t, nil)
				a := &axe{at: at, after: after}
				if _, err := w.sweeper(t, a).Run(t.Context(), sweepID); !errors.Is(err, errKilled) {
					t.Fatalf("the axe fell at call %d, the sweep says %v", at, err)
				}
				if err := w.sweeper(t, nil).Resume(t.Context()); err != nil {
					t.Fatal(err)
				}
				done, found, err := w.store.LoadSweep(t.Context(), sweepID)
				if err != nil || !found || done.State != sweep.Done {
					t.Fatalf("sweep %+v, found %v, err %v", done, found, err)
				}
				w.check(t, sweepID)
			})
		}
	}
}

// What a sweep has deleted itself is no loss that holds the next one back.
func TestTheNextSweepIsNotHeldBackByTheLastOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for n := range 15 {
		w.registry.Commit(t, id(n), "bull", time.Hour, -float64(n), fmt.Sprint("weights ", n))
	}
	for range 2 {
		done, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, nil))
		if err != nil || done.State != sweep.Done {
			t.Fatalf("got %+v, %v", done, err)
		}
	}
	if got := len(w.keys(t)); got != 5 {
		t.Fatalf("%d objects are left", got)
	}
}

func TestPromotionBetweenPlanAndSweepWins(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	first := w.sweeper(t, &axe{at: 1, after: true}) // dies once its work is written down
	sweepID := w.open(t, nil)
	if _, err := first.Run(t.Context(), sweepID); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	w.registry.Root(id(6), registryv1.Root_KIND_PRODUCTION, "version 2 of bull_specialist")
	if err := w.sweeper(t, nil).Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.registry.State(id(6)); got != registryv1.Checkpoint_STATE_LIVE {
		t.Fatalf("the promoted checkpoint is %v", got)
	}
	work, err := w.store.AllWork(t.Context(), sweepID)
	if err != nil {
		t.Fatal(err)
	}
	refused := slices.ContainsFunc(work, func(o sweep.Work) bool {
		return o.ID == id(6) && o.Phase == retention.PhaseRefused && strings.Contains(o.Reason, "version 2 of bull_specialist")
	})
	if !refused {
		t.Fatalf("the refusal is not on record: %+v", work)
	}
}

func TestARogueReleaseDeletesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	before := w.keys(t)
	w.registry.Rogue(registryfake.Key(objectstore.Digest([]byte("weights 1"))))
	_, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, nil))
	if err == nil || !strings.Contains(err.Error(), "which no checkpoint of this batch holds") {
		t.Fatalf("got %v", err)
	}
	if got := w.keys(t); !slices.Equal(got, before) {
		t.Fatalf("objects are gone: %d of %d left", len(got), len(before))
	}
}

// The best's content is also checkpoint 6's: a registry that releases it is not
// obeyed.
func TestAReleaseOfASharedContentIsNotObeyed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	w.registry.Rogue(registryfake.Key(objectstore.Digest([]byte("weights 0"))))
	sweepID := w.open(t, nil)
	if _, err := w.sweeper(t, nil).Run(t.Context(), sweepID); err != nil {
		t.Fatal(err)
	}
	w.check(t, sweepID)
}

func TestCapsRefuseAndRecordWhy(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(*testing.T, *world)
		change  func(*sweep.Sweep)
		want    string
	}{
		"lost objects": {prepare: func(t *testing.T, w *world) {
			for _, key := range w.keys(t) {
				if err := w.bucket.Delete(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
		}, want: string(retention.RefuseListing)},
		"unknown plan": {change: func(s *sweep.Sweep) { s.PlanHash = strings.Repeat("a", 64) }, want: string(retention.RefuseStalePlan)},
		"waited long":  {change: func(s *sweep.Sweep) { s.CreateTime = s.CreateTime.Add(-2 * time.Hour) }, want: string(retention.RefuseStalePlan)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.fill(t)
			if c.prepare != nil {
				c.prepare(t, w)
			}
			done, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, c.change))
			if err != nil {
				t.Fatal(err)
			}
			if done.State != sweep.Refused || len(done.RefusalCodes) != 1 || string(done.RefusalCodes[0]) != c.want {
				t.Fatalf("got %+v", done)
			}
			if got := w.registry.State(id(7)); got != registryv1.Checkpoint_STATE_LIVE {
				t.Fatalf("a refused sweep touched a checkpoint: %v", got)
			}
		})
	}
}

func TestHalfACatalogueIsNotPlannedFrom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	w.registry.Hide(id(0))
	_, err := w.sweeper(t, nil).Run(t.Context(), w.open(t, nil))
	if err == nil || !strings.Contains(err.Error(), "half a catalogue") {
		t.Fatalf("got %v", err)
	}
}

// A store that fails while it is listed stops the plan; nothing is judged by
// half a listing.
func TestAFailingListingStopsThePlan(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.fill(t)
	reader := inventory.Reader{Catalogue: w.client, Bucket: halfListing{w.bucket}, Holds: w.store, Readings: w.store, Room: inventory.FixedRoom(0)}
	if _, err := reader.Take(t.Context(), sweep.Now()); err == nil || !strings.Contains(err.Error(), "list the bucket") {
		t.Fatalf("got %v", err)
	}
}

type halfListing struct{ *objectstore.Store }

func (h halfListing) List(ctx context.Context, prefix string) iter.Seq2[objectstore.Object, error] {
	return func(yield func(objectstore.Object, error) bool) {
		n := 0
		for o, err := range h.Store.List(ctx, prefix) {
			if n++; n == 3 {
				yield(objectstore.Object{}, objectstore.ErrUnavailable)
				return
			}
			if !yield(o, err) {
				return
			}
		}
	}
}
