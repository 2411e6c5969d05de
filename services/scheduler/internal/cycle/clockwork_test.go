package cycle_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// schedule creates a schedule that begins to fire now.
func (b *bench) schedule(cron string, o cycle.Overlap, c cycle.CatchUp) {
	b.t.Helper()
	_, err := b.engine.ChangeSchedule(b.t.Context(), b.request(), "s", func(_ *cycle.Schedule, now time.Time) (*cycle.Schedule, error) {
		return &cycle.Schedule{ID: uuid.NewString(), Name: "s", Cron: cron, Overlap: o, CatchUp: c, Created: now, Done: now}, nil
	}, func(*cycle.Schedule) ([]byte, error) { return []byte{}, nil })
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) fired() []cycle.View {
	b.t.Helper()
	synctest.Wait()
	views, err := b.engine.List(b.t.Context(), cycle.Page{Limit: 1000})
	if err != nil {
		b.t.Fatal(err)
	}
	return views
}

func TestAScheduleFiresOnceAcrossRestarts(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.schedule("0 * * * *", cycle.AllowOverlap, cycle.CatchUpLatest)
		for range 4 {
			time.Sleep(time.Hour)
			// Restarted at the very fire time, and a moment later.
			b.stop()
			b.start()
			time.Sleep(10 * time.Second)
		}
		if got := b.fired(); len(got) != 4 {
			t.Errorf("%d jobs for 4 fire times", len(got))
		}
	})
}

func TestMissedFireTimesFollowThePolicy(t *testing.T) {
	t.Parallel()
	for policy, want := range map[cycle.CatchUp]int{cycle.CatchUpLatest: 1, cycle.CatchUpAll: 10, cycle.CatchUpNone: 0} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, b *bench) {
				b.schedule("30 * * * *", cycle.AllowOverlap, policy)
				b.stop()
				time.Sleep(10*time.Hour + 5*time.Minute)
				b.start()
				time.Sleep(5 * time.Second)
				if got := b.fired(); len(got) != want {
					t.Errorf("%d jobs, want %d", len(got), want)
				}
				s, err := b.engine.Schedule("s")
				if err != nil || s.Skipped != int64(10-want) {
					t.Errorf("%d skipped, want %d: %v", s.Skipped, 10-want, err)
				}
				time.Sleep(time.Hour)
				if got := b.fired(); len(got) != want+1 {
					t.Errorf("%d jobs after the next fire time, want %d", len(got), want+1)
				}
			})
		})
	}
}

func TestOverlapPolicies(t *testing.T) {
	t.Parallel()
	for policy, want := range map[cycle.Overlap]string{
		cycle.AllowOverlap: "QUEUED QUEUED QUEUED", cycle.ForbidOverlap: "QUEUED", cycle.ReplaceOverlap: "QUEUED CANCELLED CANCELLED",
	} {
		t.Run(policy.String(), func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, b *bench) {
				b.schedule("* * * * *", policy, cycle.CatchUpLatest)
				time.Sleep(3*time.Minute + 2*time.Second)
				var states []string
				for _, v := range b.fired() {
					states = append(states, v.Job.State.String())
				}
				if got := strings.Join(states, " "); got != want {
					t.Errorf("%s, want %s", got, want)
				}
			})
		})
	}
}

// promotions is a registry that says what the test says.
type promotions struct {
	mu sync.Mutex
	at time.Time
	no error
}

func (p *promotions) Promoted(context.Context, string) (time.Time, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.at, p.no
}

func (p *promotions) say(at time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at, p.no = at, err
}

func TestAJobWaitsForAPromotionAfterItsSubmit(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		p := &promotions{at: time.Now().Add(-time.Hour)}
		b.stop()
		b.promotions = p
		b.start()
		h := b.host("h1")
		id := uuid.Must(uuid.NewV7()).String()
		_, err := b.engine.Submit(t.Context(), b.request(), cycle.NewJob{ID: id, Spec: sharing(gib), Priority: job.Batch, After: []job.Dependency{{Model: "bull"}}})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * time.Second)
		if v := b.is(id, job.Queued); v.Reason() != "waits for a promotion of model bull" {
			t.Errorf("waits because %q", v.Reason())
		}
		p.say(time.Time{}, errors.New("away"))
		time.Sleep(3 * time.Second)
		b.is(id, job.Queued)
		p.say(time.Now(), nil)
		time.Sleep(3 * time.Second)
		h.sync()
		if !h.holds(id) {
			t.Errorf("not started: %s", b.view(id).Reason())
		}
	})
}

func TestAChainOfDependentsIsCancelledAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		first := b.submit(sharing(gib), job.Batch)
		ids := []string{first}
		for range 300 {
			id := uuid.Must(uuid.NewV7()).String()
			_, err := b.engine.Submit(t.Context(), b.request(), cycle.NewJob{ID: id, Spec: sharing(gib), Priority: job.Batch, After: []job.Dependency{{Job: ids[len(ids)-1]}}})
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, id)
		}
		if _, err := b.engine.Cancel(t.Context(), b.request(), first, "no"); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			b.is(id, job.Cancelled)
		}
		// What has failed already cannot be waited for, but for those who ask for it.
		n := cycle.NewJob{ID: uuid.Must(uuid.NewV7()).String(), Spec: sharing(gib), Priority: job.Batch, After: []job.Dependency{{Job: first}}}
		var unmet *cycle.UnmetError
		if _, err := b.engine.Submit(t.Context(), b.request(), n); !errors.As(err, &unmet) {
			t.Errorf("a dependency on a cancelled job: %v", err)
		}
		n.After[0].OnFailure = job.IgnoreFailure
		if _, err := b.engine.Submit(t.Context(), b.request(), n); err != nil {
			t.Error(err)
		}
		if v := b.is(n.ID, job.Queued); v.Job.Blocked() {
			t.Errorf("%+v", v.Job.After)
		}
	})
}

// slow takes a while to make anything durable.
type slow struct{ cycle.Store }

func (s slow) Commit(ctx context.Context, term uint64, c cycle.Changes) error {
	time.Sleep(time.Second)
	return s.Store.Commit(ctx, term, c)
}

// Those who come while a batch is on its way to the disk are held to what is in it.
func TestAQuotaHoldsAgainstManyAtOnce(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, b *bench) {
		b.stop()
		b.over = slow{b.store}
		b.start()
		_, err := b.engine.SetQuota(t.Context(), b.request(), "desk", &cycle.Quota{Tenant: "desk", MaxJobs: 5}, func(cycle.TenantView) ([]byte, error) { return nil, nil })
		if err != nil {
			t.Fatal(err)
		}
		spec := sharing(gib)
		spec.Tenant = "desk"
		var wg sync.WaitGroup
		var mu sync.Mutex
		accepted, refused := 0, 0
		for i := range 40 {
			wg.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				_, err := b.engine.Submit(t.Context(), b.request(), cycle.NewJob{ID: uuid.Must(uuid.NewV7()).String(), Spec: spec, Priority: job.Batch})
				var over *cycle.QuotaError
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err == nil:
					accepted++
				case errors.As(err, &over):
					refused++
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if accepted != 5 || refused != 35 {
			t.Errorf("%d accepted, %d refused", accepted, refused)
		}
	})
}
