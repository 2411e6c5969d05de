package sweep

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Batch sizes: a tombstone costs the registry one row lock each, a delete keeps
// the released objects waiting for the slowest of them.
const (
	maxBatch       = 200
	maxDeleteBatch = 100
)

// Observer counts what sweeps do.
type Observer interface {
	SweepEnded(w Sweep, at time.Time)
	WorkDone(work Work)
	// Removed counts objects that the registry had released.
	Removed(objects int, bytes int64)
}

// Sweeper carries sweeps on, one at a time. Two janitors at once would do no
// harm, every call is idempotent, but they would do the work twice.
type Sweeper struct {
	store    Store
	registry Registry
	objects  Objects
	archiver Archiver
	planner  Planner
	observer Observer
	log      *zap.Logger
	clock    clock
	turn     chan struct{}
}

// New wires a sweeper.
func New(store Store, registry Registry, objects Objects, archiver Archiver, planner Planner, observer Observer, log *zap.Logger) *Sweeper {
	return &Sweeper{store: store, registry: registry, objects: objects, archiver: archiver, planner: planner, observer: observer, log: log, clock: startClock(), turn: make(chan struct{}, 1)}
}

// Run carries one sweep to its end and returns it. After an error it is where
// it was, and Run goes on from there.
func (s *Sweeper) Run(ctx context.Context, id string) (Sweep, error) {
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return Sweep{}, ctx.Err()
	}
	w, err := s.load(ctx, id)
	if err != nil {
		return Sweep{}, err
	}
	before := w.State
	if w, err = s.carryOn(ctx, w); err != nil {
		s.log.Warn("sweep cannot go on; it will be tried again", zap.String("sweep_id", id), zap.Error(err))
		// The caller's context may be what ended it.
		nctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		if nerr := s.store.NoteError(nctx, id, err.Error()); nerr != nil {
			s.log.Warn("the sweep's error could not be stored", zap.String("sweep_id", id), zap.Error(nerr))
		}
		return Sweep{}, err
	}
	if before == Open || before == Running {
		s.observer.SweepEnded(w, w.EndTime)
		s.log.Info("sweep ended", zap.String("sweep_id", id), zap.String("state", string(w.State)), zap.String("trigger", w.Trigger),
			zap.String("plan_hash", w.PlanHash), zap.Strings("refusals", w.Refusals))
	}
	return w, nil
}

func (s *Sweeper) load(ctx context.Context, id string) (Sweep, error) {
	w, found, err := s.store.LoadSweep(ctx, id)
	if err == nil && !found {
		err = fmt.Errorf("sweep %s does not exist", id)
	}
	return w, err
}

func (s *Sweeper) carryOn(ctx context.Context, w Sweep) (Sweep, error) {
	if w.State == Open {
		if err := s.begin(ctx, w); err != nil {
			return w, err
		}
		var err error
		if w, err = s.load(ctx, w.ID); err != nil {
			return w, err
		}
	}
	if w.State != Running {
		return w, nil
	}
	for {
		open, err := s.store.OpenWork(ctx, w.ID, maxBatch)
		if err != nil {
			return w, err
		}
		if len(open) == 0 {
			break
		}
		if err := s.step(ctx, w, open); err != nil {
			return w, err
		}
	}
	if err := s.tidy(ctx, w); err != nil {
		return w, err
	}
	if err := s.store.FinishSweep(ctx, w.ID, time.Now()); err != nil {
		return w, err
	}
	return s.load(ctx, w.ID)
}

// Resume carries on every sweep that a crash or an outage left behind.
func (s *Sweeper) Resume(ctx context.Context) error {
	left, err := s.store.UnfinishedSweeps(ctx)
	if err != nil {
		return err
	}
	for _, w := range left {
		if _, err := s.Run(ctx, w.ID); err != nil {
			return err
		}
	}
	return nil
}

// begin plans, asks the guard and either refuses or writes down all the work.
func (s *Sweeper) begin(ctx context.Context, w Sweep) error {
	now := Now()
	refuse := func(r ...retention.Refusal) error { return s.store.RefuseSweep(ctx, w.ID, r, now) }
	if waited := now.Sub(w.CreateTime); waited > retention.MaxPlanAge {
		return refuse(retention.Refusal{Code: retention.RefuseStalePlan, Text: fmt.Sprintf("it could not start for %s; ask again", retention.Age(waited))})
	}
	fresh, stock, err := s.planner.Fresh(ctx, now)
	if err != nil {
		return err
	}
	plan := fresh
	if w.PlanHash != "" {
		stored, found, err := s.planner.Stored(ctx, w.PlanHash)
		if err != nil {
			return err
		}
		if !found {
			return refuse(retention.Refusal{Code: retention.RefuseStalePlan, Text: "its plan is no longer stored; make a new one"})
		}
		plan = stored
	}
	lastRun, catalogued, err := s.store.LastRun(ctx)
	if err != nil {
		return err
	}
	policy := s.planner.Policy()
	at := retention.Circumstances{Now: now, LastRun: lastRun, LastCatalogued: catalogued, Bucket: stock.Bucket,
		ClockStep: s.clock.step(), Attended: w.Trigger == ByPerson, Confirmed: w.Confirmed}
	if refusals := retention.Guard(policy.Caps, plan, stock.Inventory, at); len(refusals) > 0 {
		return refuse(refusals...)
	}
	return s.store.StartSweep(ctx, w.ID, plan.Hash, policy.Grace, len(stock.Checkpoints), workOf(policy, plan, fresh, stock), now)
}

// workOf turns the plan into work. Where the plan is older than the stock, the
// fresh one has a veto: the registry looks at roots again, but not at ranks.
func workOf(policy retention.Policy, plan, fresh retention.Plan, stock inventory.Stock) []Work {
	byID := make(map[string]*retention.Checkpoint, len(stock.Checkpoints))
	for i := range stock.Checkpoints {
		byID[stock.Checkpoints[i].ID] = &stock.Checkpoints[i]
	}
	var out []Work
	for _, item := range plan.Items() {
		c := byID[item.ID]
		if c == nil {
			continue // gone since: nothing to do
		}
		was, _ := plan.Find(item.ID)
		is, _ := fresh.Find(item.ID)
		w := Work{Item: item, Files: c.Files, Bytes: was.Bytes, Reason: was.Text()}
		if rule, ok := policy.RuleFor(c.Experiment); ok && item.Task == retention.TaskArchive {
			w.Patterns = rule.DropFiles
		}
		if is.Verdict != was.Verdict {
			w.Phase, w.Reason = retention.PhaseRefused, "the plan is older than the facts: "+is.Text()
		}
		out = append(out, w)
	}
	return out
}

// step makes the next call for as many items as it fits.
func (s *Sweeper) step(ctx context.Context, w Sweep, open []Work) error {
	call := open[0].Next()
	n := slices.IndexFunc(open, func(o Work) bool { return o.Next() != call })
	if n < 0 {
		n = len(open)
	}
	if call == retention.CallBeginDelete || call == retention.CallConfirm {
		n = min(n, maxDeleteBatch)
	}
	batch := open[:n]
	ids := make([]string, n)
	for i, o := range batch {
		ids[i] = o.ID
	}
	switch call {
	case retention.CallTombstone:
		results, err := s.registry.Tombstone(ctx, requestID(w.ID, "tombstone", ids), w.PlanHash, ids)
		if err != nil {
			return fmt.Errorf("tombstone: %w", err)
		}
		done, err := apply(batch, call, results)
		if err != nil {
			return err
		}
		return s.record(ctx, w.ID, done, followUp(w, done))
	case retention.CallRestore:
		results, err := s.registry.Restore(ctx, requestID(w.ID, "revive", ids), ids)
		if err != nil {
			return fmt.Errorf("revive: %w", err)
		}
		done, err := apply(batch, call, results)
		if err != nil {
			return err
		}
		return s.record(ctx, w.ID, done, nil)
	case retention.CallBeginDelete:
		return s.remove(ctx, w, batch, ids)
	case retention.CallConfirm:
		return s.confirm(ctx, w, batch)
	case retention.CallArchive:
		return s.archive(ctx, w, batch[0])
	default:
		return fmt.Errorf("sweep %s has work that is over among its open work: %s", w.ID, open[0].ID)
	}
}

// followUp deletes in the same sweep what a policy without grace has condemned.
func followUp(w Sweep, done []Work) []Work {
	if w.Grace > 0 {
		return nil
	}
	var out []Work
	for _, d := range done {
		if d.Phase == retention.PhaseDone {
			d.Task, d.Phase = retention.TaskDelete, retention.PhasePending
			out = append(out, d)
		}
	}
	return out
}

// remove takes a batch from the second check to the confirmation.
func (s *Sweeper) remove(ctx context.Context, w Sweep, batch []Work, ids []string) error {
	// Always a new request id: a replayed answer would name the objects that
	// could go then, and contents may have found a new holder since.
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	results, keys, err := s.registry.BeginDelete(ctx, id.String(), ids, w.Grace)
	if err != nil {
		return fmt.Errorf("begin to delete: %w", err)
	}
	batch, err = apply(batch, retention.CallBeginDelete, results)
	if err != nil {
		return err
	}
	if err := s.record(ctx, w.ID, batch, nil); err != nil {
		return err
	}
	batch = slices.DeleteFunc(batch, func(o Work) bool { return o.Phase != retention.PhaseReleased })
	if len(batch) == 0 {
		return nil
	}
	released := map[string]bool{}
	for _, key := range keys {
		if digest, named := inventory.DigestOf(key); named {
			released[digest] = true
		}
	}
	held, err := s.planner.Held(ctx, slices.Sorted(maps.Keys(released)))
	if err != nil {
		return err
	}
	if batch, err = s.erase(ctx, batch, keys, held); err != nil {
		return err
	}
	if err := s.record(ctx, w.ID, batch, nil); err != nil {
		return err
	}
	return s.confirm(ctx, w, batch)
}

// erase deletes the released objects. It does not take the registry's word
// alone, because deleting is the one thing that cannot be taken back: a key
// whose content no checkpoint of the batch had stops the sweep, and a content
// that the catalogue still lists for another checkpoint is left. The latter may
// be right after all, when the content was uploaded anew under another key; then
// it costs a few bytes until the object is found to be an orphan.
func (s *Sweeper) erase(ctx context.Context, batch []Work, keys []string, held map[string]bool) ([]Work, error) {
	owner := map[string]int{}
	size := map[string]int64{}
	for i, o := range batch {
		for _, f := range o.Files {
			if _, taken := owner[f.Digest]; !taken {
				owner[f.Digest], size[f.Digest] = i, f.Bytes
			}
		}
	}
	for _, key := range keys {
		digest, named := inventory.DigestOf(key)
		if _, ours := owner[digest]; !named || !ours {
			return nil, fmt.Errorf("the registry released object %q, which no checkpoint of this batch holds; nothing is deleted", key)
		}
	}
	out := slices.Clone(batch)
	for i := range out {
		out[i].Item = out[i].After(retention.CallErase, true)
		out[i].FreedBytes = 0
	}
	for _, key := range keys {
		digest, _ := inventory.DigestOf(key)
		o := &out[owner[digest]]
		if held[digest] {
			o.Reason += "; object " + key + " is left, another checkpoint has the same content"
			s.log.Warn("a released object is left: another checkpoint has the same content", zap.String("key", key), zap.String("checkpoint_id", o.ID))
			continue
		}
		if err := s.objects.Delete(ctx, key); err != nil {
			return nil, fmt.Errorf("delete the bytes: %w", err)
		}
		o.FreedBytes += size[digest]
	}
	return out, nil
}

func (s *Sweeper) confirm(ctx context.Context, w Sweep, batch []Work) error {
	ids := make([]string, len(batch))
	for i, o := range batch {
		ids[i] = o.ID
	}
	results, err := s.registry.ConfirmDeleted(ctx, requestID(w.ID, "confirm", ids), ids)
	if err != nil {
		return fmt.Errorf("confirm: %w", err)
	}
	done, err := apply(batch, retention.CallConfirm, results)
	if err != nil {
		return err
	}
	return s.record(ctx, w.ID, done, nil)
}

// apply brings each item on by the registry's word about it.
func apply(batch []Work, call retention.Call, results []Result) ([]Work, error) {
	word := make(map[string]Result, len(results))
	for _, r := range results {
		word[r.ID] = r
	}
	out := slices.Clone(batch)
	for i := range out {
		r, ok := word[out[i].ID]
		if !ok {
			return nil, fmt.Errorf("the registry has not answered for checkpoint %s", out[i].ID)
		}
		out[i].Item = out[i].After(call, r.Done)
		if !r.Done {
			out[i].Reason = r.Reason
		}
	}
	return out, nil
}

func (s *Sweeper) record(ctx context.Context, id string, done, follow []Work) error {
	if err := s.store.Record(ctx, id, done, follow); err != nil {
		return fmt.Errorf("record the progress: %w", err)
	}
	for _, d := range done {
		if d.Phase.Over() {
			s.observer.WorkDone(d)
		}
	}
	return nil
}

// requestID names a call by its content, so that the call that is made again
// after a crash is the same call to the registry.
func requestID(sweepID, what string, ids []string) string {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\n%s\n%q", sweepID, what, ids) // a hash never fails
	return uuid.NewHash(sha256.New(), uuid.Nil, h.Sum(nil), 8).String()
}
