package cycle

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Promotions says when models were promoted. It is the registry, as far as the
// scheduler needs it.
type Promotions interface {
	// Promoted is when a version of the model last became the live one; zero
	// means never.
	Promoted(ctx context.Context, model string) (time.Time, error)
}

// Promotes reports whether a job may wait for a promotion.
func (e *Engine) Promotes() bool { return e.o.Promotions != nil }

// promoteEvery is how often the registry is asked about models that are waited
// for. Asking heals by itself; a stream per model would have to be kept alive.
const promoteEvery = 2 * time.Second

// promotions settles the dependencies on models.
func (e *Engine) promotions(ctx context.Context) {
	if e.o.Promotions == nil {
		return
	}
	tick := time.NewTicker(promoteEvery)
	defer tick.Stop()
	away := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, model := range e.awaited() {
			at, err := e.o.Promotions.Promoted(ctx, model)
			if err != nil {
				if !away && ctx.Err() == nil {
					e.log.Warn("cannot ask the registry about a promotion that jobs wait for; asking again", zap.String("model", model), zap.Error(err))
				}
				away = true
				break
			}
			away = false
			if at.IsZero() || !e.awaitedBefore(model, at) {
				continue
			}
			_ = e.do(ctx, func(t *tx) error {
				t.promoted(model, at)
				return nil
			})
		}
	}
}

// awaited lists the models that jobs wait for.
func (e *Engine) awaited() []string {
	e.mu.RLock()
	defer e.mu.RUnlock()
	seen := map[string]bool{}
	var out []string
	for key, ids := range e.st.waiters {
		for id := range ids {
			r := e.st.records[id]
			for _, d := range r.Job.After {
				if d.Model != "" && keyOf(d) == key && !seen[d.Model] {
					seen[d.Model] = true
					out = append(out, d.Model)
				}
			}
		}
	}
	return out
}

func (e *Engine) awaitedBefore(model string, at time.Time) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for id := range e.st.waiters[keyOf(job.Dependency{Model: model})] {
		if e.st.records[id].Job.Submitted.Before(at) {
			return true
		}
	}
	return false
}

// promoted settles what waits for a promotion and was submitted before it.
func (t *tx) promoted(model string, at time.Time) {
	key := keyOf(job.Dependency{Model: model})
	why := "model " + model + " was promoted at " + at.UTC().Format(time.RFC3339)
	for _, r := range t.waitersOf(key) {
		if r.Job.Submitted.Before(at) {
			t.put(r.Job.Settle(func(d job.Dependency) bool { return d.Model == model }, true, why, t.now), nil)
		}
	}
}
