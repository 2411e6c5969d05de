package postgres

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func (f *fixture) promote(p Promotion) (catalog.Version, catalog.HistoryEntry, error) {
	var (
		v catalog.Version
		e catalog.HistoryEntry
	)
	err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		v, e, err = t.Promote(f.ctx, p)
		return err
	})
	return v, e, err
}

func (f *fixture) register(model, checkpoint string) catalog.Version {
	f.Helper()
	var v catalog.Version
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		v, err = t.RegisterVersion(f.ctx, model, checkpoint, By{Actor: "person/ann"})
		return err
	}))
	return v
}

// family registers n versions of a model and returns their checkpoints.
func (f *fixture) family(model string, n int) []catalog.Checkpoint {
	f.Helper()
	run, fence := f.run("")
	var cs []catalog.Checkpoint
	for i := range n {
		c := f.checkpoint(run, fence, int64(i+1), float64(i+1)/10)
		f.register(model, c.ID)
		cs = append(cs, c)
	}
	return cs
}

func TestSuccessRegistersTheBestCheckpointOnce(t *testing.T) {
	f := setup(t)
	run, fence := f.run("bull_specialist")
	f.checkpoint(run, fence, 1, math.NaN())
	f.checkpoint(run, fence, 2, math.Inf(1))
	best := f.checkpoint(run, fence, 3, 1.5)
	f.checkpoint(run, fence, 4, 1.5)
	done := closed(key(run, 1, fence, 2), catalog.RunSucceeded)
	if r := f.apply(done)[0]; r.RegisteredVersion != 1 || r.RegisteredModel != "bull_specialist" {
		f.Fatalf("close: %+v", r)
	}
	f.apply(done)
	vs, err := f.store.Versions(f.ctx, "bull_specialist")
	f.must(err)
	if len(vs) != 1 || vs[0].CheckpointID != best.ID || vs[0].RunID != run || vs[0].Stage != catalog.StageNone || vs[0].TraceParent == "" {
		f.Errorf("versions %+v", vs)
	}
	got, err := f.store.GetRun(f.ctx, run)
	f.must(err)
	if got.State != catalog.RunSucceeded || got.EndTime.IsZero() {
		f.Errorf("run %+v", got)
	}
	empty, fence2 := f.run("bull_specialist")
	f.checkpoint(empty, fence2, 1, math.NaN())
	if r := f.apply(closed(key(empty, 1, fence2, 2), catalog.RunSucceeded))[0]; r.RegisteredVersion != 0 || r.ModelSkipped == "" {
		f.Errorf("a run without a finite Sharpe registered: %+v", r)
	}
	failed, fence3 := f.run("bull_specialist")
	f.checkpoint(failed, fence3, 1, 9)
	if r := f.apply(closed(key(failed, 1, fence3, 2), catalog.RunFailed))[0]; r.RegisteredVersion != 0 {
		f.Errorf("a failed run registered: %+v", r)
	}
}

// The checkpoint that SQL registers is the one that the pure Best names, over any mix of
// NaN, infinities, ties, corrupt and missing evaluations.
func TestBestInSQLIsThePureBest(t *testing.T) {
	f := setup(t)
	pool := []float64{math.NaN(), math.Inf(1), math.Inf(-1), -1, 0, math.Copysign(0, -1), 0.5, 0.5, 2}
	rapid.Check(t, func(rt *rapid.T) {
		run, fence := f.run("m-" + newID())
		var all []catalog.Checkpoint
		for range rapid.IntRange(0, 5).Draw(rt, "checkpoints") {
			c := f.checkpoint(run, fence, rapid.Int64Range(0, 3).Draw(rt, "step"), rapid.SampledFrom(pool).Draw(rt, "sharpe"))
			if rapid.IntRange(0, 5).Draw(rt, "fate") == 0 {
				f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
					var err error
					c, _, err = t.MarkCorrupt(f.ctx, c.ID, fence, "flipped bit", nil)
					return err
				}))
			}
			all = append(all, c)
		}
		r := f.apply(closed(key(run, 1, fence, 2), catalog.RunSucceeded))[0]
		want, ok := catalog.Best(all)
		if !ok {
			if r.RegisteredVersion != 0 {
				rt.Fatalf("registered from %+v", all)
			}
			return
		}
		v, err := f.store.GetVersion(f.ctx, r.RegisteredModel, r.RegisteredVersion)
		if err != nil || v.CheckpointID != want.ID {
			rt.Fatalf("registered %s, the rule says %s: %v", v.CheckpointID, want.ID, err)
		}
	})
}

func TestPromotionMovesStageAliasAndHistoryTogether(t *testing.T) {
	f := setup(t)
	f.family("m", 3)
	for _, v := range []int32{1, 2} {
		_, e, err := f.promote(Promotion{Model: "m", Version: v, To: catalog.StageProduction, By: By{Actor: "person/ann", Reason: "why", TraceID: "t"}})
		f.must(err)
		if e.Version != v || e.To != catalog.StageProduction || e.Actor != "person/ann" || e.TraceID != "0af7651916cd43dd8448eb211c80319c" {
			f.Errorf("entry %+v", e)
		}
		f.now = f.now.Add(time.Minute)
	}
	v1, err := f.store.GetVersion(f.ctx, "m", 1)
	f.must(err)
	live, err := f.store.VersionByAlias(f.ctx, "m", "production")
	f.must(err)
	if v1.Stage != catalog.StageArchived || len(v1.Aliases) != 0 || live.Version != 2 || live.Stage != catalog.StageProduction {
		f.Errorf("v1 %+v, live %+v", v1, live)
	}
	history, err := f.store.History(f.ctx, "m")
	f.must(err)
	f.must(catalog.VerifyChain(history))
	if len(history) != 6 { // three registered, one promoted, one archived and one promoted
		f.Errorf("%d lines", len(history))
	}
	if at := catalog.LiveAt(history, f.now.Add(-90*time.Second)); at != 1 {
		f.Errorf("version %d was live between the promotions", at)
	}
	_, again, err := f.promote(Promotion{Model: "m", Version: 2, To: catalog.StageProduction})
	f.must(err)
	if after, _ := f.store.History(f.ctx, "m"); len(after) != len(history) || again.Version != 2 {
		f.Error("promoting what is already there wrote a line")
	}
	if _, err := f.store.pool.Exec(f.ctx, `UPDATE model_history SET actor = 'x'`); err == nil {
		f.Error("history was edited")
	}
	if _, err := f.store.pool.Exec(f.ctx, `DELETE FROM model_history`); err == nil {
		f.Error("history was deleted")
	}
}

func TestPromotionRefusals(t *testing.T) {
	f := setup(t)
	cs := f.family("m", 2)
	one, zero := int32(1), int32(0)
	gate := []catalog.Gate{{Metric: catalog.SharpeMetric, Compare: catalog.AtLeast, Threshold: 5}}
	for name, c := range map[string]struct {
		p    Promotion
		want catalog.Problem
	}{
		"no model":     {Promotion{Model: "x", Version: 1, To: catalog.StageProduction}, catalog.ProblemNotFound},
		"no version":   {Promotion{Model: "m", Version: 9, To: catalog.StageProduction}, catalog.ProblemNotFound},
		"gate":         {Promotion{Model: "m", Version: 1, To: catalog.StageProduction, Gates: gate}, catalog.ProblemGate},
		"not expected": {Promotion{Model: "m", Version: 1, To: catalog.StageProduction, ExpectedProduction: &one}, catalog.ProblemEtag},
	} {
		if _, _, err := f.promote(c.p); problem(err) != c.want {
			f.Errorf("%s: %v", name, err)
		}
	}
	v, _, err := f.promote(Promotion{Model: "m", To: catalog.StageProduction, ExpectedProduction: &zero})
	f.must(err)
	if v.Version != 2 {
		f.Errorf("version 0 chose %d, the best is 2", v.Version)
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		_, _, err := t.MarkCorrupt(f.ctx, cs[0].ID, math.MaxInt64, "flipped bit", nil)
		return err
	}))
	if _, _, err := f.promote(Promotion{Model: "m", Version: 1, To: catalog.StageProduction}); problem(err) != catalog.ProblemState {
		f.Errorf("a corrupt checkpoint was promoted: %v", err)
	}
}

func TestConcurrentPromotionsLeaveExactlyOneProduction(t *testing.T) {
	f := setup(t)
	const callers, rounds = 6, 60
	f.family("m", callers)
	for round := range rounds {
		var wg sync.WaitGroup
		for c := range callers {
			wg.Go(func() {
				to := catalog.StageProduction
				if round%5 == 4 && c == 0 {
					to = catalog.StageStaging
				}
				if _, _, err := f.promote(Promotion{Model: "m", Version: int32(c + 1), To: to}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		var production int
		var live int32
		f.must(f.store.pool.QueryRow(f.ctx, `SELECT count(*), max(version) FROM model_versions WHERE stage = 'PRODUCTION'`).Scan(&production, &live))
		alias, err := f.store.VersionByAlias(f.ctx, "m", "production")
		f.must(err)
		history, err := f.store.History(f.ctx, "m")
		f.must(err)
		if production != 1 || alias.Version != live || catalog.LiveAt(history, f.now) != live {
			f.Fatalf("round %d: %d in Production, alias %d, history %d", round, production, alias.Version, catalog.LiveAt(history, f.now))
		}
	}
	history, err := f.store.History(f.ctx, "m")
	f.must(err)
	f.must(catalog.VerifyChain(history))
}

func TestRollback(t *testing.T) {
	f := setup(t)
	f.family("m", 3)
	rollback := func(want int32) (catalog.Version, error) {
		var v catalog.Version
		err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
			var err error
			v, _, err = t.Rollback(f.ctx, "m", want, By{Actor: "person/ann"})
			return err
		})
		return v, err
	}
	if _, err := f.store.RollbackTarget(f.ctx, "m"); problem(err) != catalog.ProblemState {
		f.Errorf("nothing was ever in Production: %v", err)
	}
	for _, v := range []int32{1, 2, 3} {
		f.now = f.now.Add(time.Minute)
		_, _, err := f.promote(Promotion{Model: "m", Version: v, To: catalog.StageProduction})
		f.must(err)
	}
	if _, err := rollback(1); problem(err) != catalog.ProblemEtag {
		f.Errorf("rolled back to what was not proven: %v", err)
	}
	for _, want := range []int32{2, 1} {
		target, err := f.store.RollbackTarget(f.ctx, "m")
		f.must(err)
		v, err := rollback(target.Version)
		f.must(err)
		if v.Version != want || v.Stage != catalog.StageProduction {
			f.Errorf("rolled back to %d, want %d", v.Version, want)
		}
	}
	if _, err := f.store.RollbackTarget(f.ctx, "m"); problem(err) != catalog.ProblemState {
		f.Errorf("there is nothing before version 1: %v", err)
	}
}

func tombstone(f *fixture, ids ...string) []RetentionResult {
	f.Helper()
	var out []RetentionResult
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		out, err = t.Tombstone(f.ctx, ids, "plan")
		return err
	}))
	return out
}

func TestSweepInTwoPhases(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	shared := "frozen trunk"
	c1 := f.checkpoint(run, fence, 1, 0.1, "w1", shared)
	c2 := f.checkpoint(run, fence, 2, 0.2, "w2", shared)
	c3 := f.checkpoint(run, fence, 3, 0.3, "w3")
	items, total, err := f.store.Inventory(f.ctx, nil, "", 10, f.now)
	f.must(err)
	if total != 3 || len(items[0].Roots) != 0 || items[0].ExclusiveBytes != 2 || !items[0].RunActive ||
		len(items[1].Roots) != 1 || items[1].Roots[0].Kind != catalog.RootLiveRun {
		f.Fatalf("inventory %d %+v", total, items)
	}
	for content, holders := range map[string][]string{shared: {c1.ID, c2.ID}, "w3": {c3.ID}, "nobody's": {}} {
		items, total, err := f.store.Inventory(f.ctx, []string{digestOf(content)}, "", 10, f.now)
		f.must(err)
		if int(total) != len(holders) || len(items) != len(holders) || len(items) > 0 && items[0].Checkpoint.ID != holders[0] {
			f.Errorf("%q is held by %d: %+v", content, total, items)
		}
	}
	for i, r := range tombstone(f, c1.ID, c2.ID, c3.ID, newID()) {
		if r.Done != (i == 0) {
			f.Errorf("tombstone %d: %+v", i, r)
		}
	}
	begin := func(grace time.Duration, ids ...string) (out []RetentionResult, keys []string) {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			var err error
			out, keys, err = t.BeginDelete(f.ctx, ids, grace)
			return err
		}))
		return
	}
	if r, _ := begin(time.Hour, c1.ID); r[0].Done {
		f.Error("deleted within the grace")
	}
	f.now = f.now.Add(2 * time.Hour)
	r, keys := begin(time.Hour, c1.ID, c2.ID)
	if !r[0].Done || r[1].Done || len(keys) != 1 || keys[0] != c1.Files[0].ObjectKey {
		f.Fatalf("begin %+v %v", r, keys)
	}
	if _, again := begin(time.Hour, c1.ID); len(again) != 1 {
		f.Error("a repeated BeginDelete must return the keys again")
	}
	// The same content now gets another key: the old one may be deleted at any time.
	c4 := f.checkpoint(run, fence, 4, 0.4, "w1")
	if c4.Files[0].ObjectKey == c1.Files[0].ObjectKey {
		f.Error("a released key was handed out again")
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		out, err := t.ConfirmDeleted(f.ctx, []string{c1.ID, c2.ID})
		if err == nil && (!out[0].Done || out[1].Done) {
			f.Errorf("confirm %+v", out)
		}
		return err
	}))
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		out, err := t.Restore(f.ctx, []string{c1.ID})
		if err == nil && out[0].Done {
			f.Error("a deleted checkpoint was restored")
		}
		return err
	}))
	if got, _ := f.store.GetCheckpoint(f.ctx, c1.ID); got.State != catalog.Gone {
		f.Errorf("state %s", got.State)
	}
}

func TestRootsKeepCheckpointsAndTheTriggerBacksThemUp(t *testing.T) {
	f := setup(t)
	cs := f.family("m", 2)
	_, _, err := f.promote(Promotion{Model: "m", Version: 1, To: catalog.StageProduction})
	f.must(err)
	for _, r := range tombstone(f, cs[0].ID, cs[1].ID) {
		if r.Done || r.State != catalog.Live {
			f.Errorf("a rooted checkpoint was condemned: %+v", r)
		}
	}
	_, err = f.store.pool.Exec(f.ctx, `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = now() WHERE checkpoint_id = $1`, cs[0].ID)
	if !restricted(err) {
		f.Errorf("the backstop let a production checkpoint go: %v", err)
	}
	if _, err := f.store.pool.Exec(f.ctx, `DELETE FROM checkpoints WHERE checkpoint_id = $1`, cs[1].ID); err == nil {
		f.Error("a registered checkpoint was deleted")
	}
	_, err = f.store.pool.Exec(f.ctx, `UPDATE checkpoints SET state = 'TOMBSTONED', tombstone_time = now() WHERE checkpoint_id = $1`, cs[1].ID)
	f.must(err)
	if _, _, err := f.promote(Promotion{Model: "m", Version: 2, To: catalog.StageProduction}); problem(err) != catalog.ProblemState {
		f.Errorf("a tombstoned checkpoint was promoted: %v", err)
	}
	if _, err := f.store.pool.Exec(f.ctx, `UPDATE model_versions SET stage = 'STAGING' WHERE version = 1`); err != nil {
		f.Fatal(err)
	}
	if _, err := f.store.pool.Exec(f.ctx, `UPDATE model_versions SET stage = 'PRODUCTION' WHERE version = 2`); !restricted(err) {
		f.Errorf("the backstop let a tombstone into production: %v", err)
	}
}

// Promote, sweep and register race over unregistered checkpoints: whatever wins, a version
// in Production always has a LIVE checkpoint.
func TestPromotionAndSweepRace(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	for round := range 25 {
		c := f.checkpoint(run, fence, int64(round), 1)
		for i := range 2 { // push it out of the live run's last two
			f.checkpoint(run, fence, int64(1000+round*2+i), 1)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			err := f.store.Do(f.ctx, f.now, func(t *Tx) error {
				v, err := t.RegisterVersion(f.ctx, "m", c.ID, By{})
				if err != nil {
					return err
				}
				_, _, err = t.Promote(f.ctx, Promotion{Model: "m", Version: v.Version, To: catalog.StageProduction})
				return err
			})
			var refusal *catalog.Error
			if err != nil && !errors.As(err, &refusal) {
				t.Error(err)
			}
		})
		wg.Go(func() {
			time.Sleep(time.Duration(rand.IntN(4)) * time.Millisecond)
			tombstone(f, c.ID)
			f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
				_, _, err := t.BeginDelete(f.ctx, []string{c.ID}, 0)
				return err
			}))
		})
		wg.Wait()
		var dead int
		f.must(f.store.pool.QueryRow(f.ctx, `SELECT count(*) FROM model_versions v JOIN checkpoints c USING (checkpoint_id)
			WHERE v.stage = 'PRODUCTION' AND c.state <> 'LIVE'`).Scan(&dead))
		if dead != 0 {
			f.Fatalf("round %d: the production model was swept", round)
		}
	}
}
