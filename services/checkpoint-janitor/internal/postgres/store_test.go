package postgres_test

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 123_000_000, time.UTC)

func setup(t *testing.T) (*postgres.Store, *pgxpool.Pool) {
	t.Helper()
	pool := pgtest.New(t, postgres.Schema, postgres.Migrations)
	return postgres.New(pool), pool
}

func somePlan(t *testing.T, at time.Time) (retention.Plan, retention.Inventory) {
	t.Helper()
	var v retention.Inventory
	for i, sharpe := range []float64{1, 2, 3, 4, 5, 6, math.NaN()} {
		c := retention.Checkpoint{ID: fmt.Sprint("c-", i), Experiment: "bull", RunID: "r", Step: int64(i), State: retention.StateLive,
			CreateTime: at.AddDate(0, 0, -20), Sharpe: retention.Measured(sharpe), Files: []retention.File{{Digest: fmt.Sprint(i), Bytes: 7}}}
		if i == 0 {
			c.State, c.TombstoneTime = retention.StateTombstoned, at.AddDate(0, 0, -1)
		}
		if i == 3 {
			c.References = []retention.Reference{{Kind: retention.RefProduction, Detail: "version 1 of bull"}}
		}
		v.Checkpoints = append(v.Checkpoints, c)
	}
	plan, err := retention.Decide(retention.DefaultPolicy(), v, at)
	if err != nil {
		t.Fatal(err)
	}
	return plan, v
}

// A stored plan comes back as it was, and its stored inputs decide it again
// with the same hash.
func TestAStoredPlanReplays(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	plan, v := somePlan(t, now)
	packed, err := planning.Pack(v)
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := policyfile.Load("")
	if err != nil {
		t.Fatal(err)
	}
	record := postgres.PlanRecord{Plan: plan, PolicyText: text, Inventory: packed, Changes: []string{"c-1: was keep"}}
	for range 2 { // the same plan twice is one
		if err := store.SavePlan(t.Context(), record, now); err != nil {
			t.Fatal(err)
		}
	}
	got, found, err := store.LoadPlan(t.Context(), plan.Hash)
	if err != nil || !found {
		t.Fatal(found, err)
	}
	if len(got.Plan.Diff(plan)) != 0 || got.Plan.Hash != plan.Hash || !got.Plan.Now.Equal(now) || len(got.Changes) != 1 {
		t.Fatalf("got %+v", got.Plan)
	}
	for i, d := range got.Plan.Decisions {
		if d.Text() != plan.Decisions[i].Text() || d.FreedBytes != plan.Decisions[i].FreedBytes || d.State != plan.Decisions[i].State {
			t.Errorf("%s: got %q, want %q", d.ID, d.Text(), plan.Decisions[i].Text())
		}
	}
	policy, err := policyfile.Parse(got.PolicyText)
	if err != nil {
		t.Fatal(err)
	}
	stock, err := planning.Unpack(got.Inventory)
	if err != nil {
		t.Fatal(err)
	}
	again, err := retention.Decide(policy, stock, got.Plan.Now)
	if err != nil || again.Hash != plan.Hash {
		t.Fatalf("the replay has hash %s, err %v; the plan has %s", again.Hash, err, plan.Hash)
	}
	if latest, err := store.LatestPlan(t.Context()); err != nil || latest != plan.Hash {
		t.Fatalf("latest %q %v", latest, err)
	}
	if _, found, err := store.LoadPlan(t.Context(), strings.Repeat("0", 64)); found || err != nil {
		t.Fatal(found, err)
	}
}

func TestARequestIsOneSweepHoweverOftenItIsSent(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	request := &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString()}
	send := func(req *janitorv1.ExecuteSweepRequest) (string, error) {
		answer, _, err := postgres.Once(t.Context(), store, request.GetRequestId(), "ExecuteSweep", req, now,
			func(tx postgres.Tx) (*janitorv1.ExecuteSweepResponse, error) {
				w := sweep.Sweep{ID: uuid.NewString(), Trigger: sweep.ByPerson, Caller: "person/ana", CreateTime: now}
				return &janitorv1.ExecuteSweepResponse{SweepId: w.ID}, tx.CreateSweep(t.Context(), w)
			})
		return answer.GetSweepId(), err
	}
	first, err := send(request)
	if err != nil {
		t.Fatal(err)
	}
	second, err := send(request)
	if err != nil || second != first {
		t.Fatalf("sweeps %s and %s, %v", first, second, err)
	}
	if left, err := store.UnfinishedSweeps(t.Context()); err != nil || len(left) != 1 {
		t.Fatalf("%d sweeps, %v", len(left), err)
	}
	_, err = send(&janitorv1.ExecuteSweepRequest{RequestId: request.GetRequestId(), ConfirmLarge: true})
	if rpcerr.ReasonOf(err) != errorv1.Reason_REASON_REQUEST_ID_REUSED {
		t.Fatalf("another payload gives %v", err)
	}
}

func TestASweepsLife(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	ctx := t.Context()
	id := uuid.NewString()
	if err := store.OpenSweep(ctx, sweep.Sweep{ID: id, Trigger: sweep.BySchedule, Caller: "schedule", CreateTime: now}); err != nil {
		t.Fatal(err)
	}
	if start, _, err := store.LastRun(ctx); err != nil || !start.IsZero() {
		t.Fatalf("an open sweep counts as a run: %v %v", start, err)
	}
	item := func(id string, task retention.Task) sweep.Work {
		return sweep.Work{Item: retention.Item{ID: id, Task: task, Phase: retention.PhasePending}, Bytes: 9, Reason: "why",
			Files: []retention.File{{Digest: "d", Bytes: 9}}}
	}
	work := []sweep.Work{item("c", retention.TaskDelete), item("b", retention.TaskTombstone), item("a", retention.TaskRevive)}
	for range 2 { // a second start changes nothing
		if err := store.StartSweep(ctx, id, "hash", time.Hour, 7, work, now.Add(time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	open, err := store.OpenWork(ctx, id, 2)
	if err != nil || len(open) != 2 || open[0].Task != retention.TaskRevive || open[1].Task != retention.TaskTombstone || open[1].Files[0].Digest != "d" {
		t.Fatalf("open work %+v, %v", open, err)
	}
	done := work[0]
	done.Phase, done.FreedBytes = retention.PhaseDone, 9
	refused := work[1]
	refused.Phase, refused.Reason = retention.PhaseRefused, "version 2"
	revived := work[2]
	revived.Phase = retention.PhaseDone
	if err := store.Record(ctx, id, []sweep.Work{done, refused, revived}, []sweep.Work{item("b", retention.TaskDelete)}); err != nil {
		t.Fatal(err)
	}
	if open, err = store.OpenWork(ctx, id, 10); err != nil || len(open) != 1 || open[0].ID != "b" || open[0].Task != retention.TaskDelete {
		t.Fatalf("open work %+v, %v", open, err)
	}
	if err := store.FinishSweep(ctx, id, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	w, found, err := store.LoadSweep(ctx, id)
	if err != nil || !found || w.State != sweep.Done || w.Grace != time.Hour || w.Catalogued != 7 || !w.EndTime.Equal(now.Add(time.Minute)) {
		t.Fatalf("got %+v %v %v", w, found, err)
	}
	if start, n, err := store.LastRun(ctx); err != nil || n != 6 || !start.Equal(now.Add(time.Second)) {
		t.Fatalf("last run %v %d %v", start, n, err)
	}
	if end, err := store.LastEnd(ctx); err != nil || !end.Equal(now.Add(time.Minute)) {
		t.Fatalf("last end %v %v", end, err)
	}
}

func TestARefusedSweepKeepsItsReasons(t *testing.T) {
	t.Parallel()
	store, pool := setup(t)
	id := uuid.NewString()
	if err := store.OpenSweep(t.Context(), sweep.Sweep{ID: id, Trigger: sweep.ByPerson, Caller: "x", CreateTime: now}); err != nil {
		t.Fatal(err)
	}
	if err := store.RefuseSweep(t.Context(), id, []retention.Refusal{{Code: retention.RefuseTooMuch, Text: "too much"}}, now); err != nil {
		t.Fatal(err)
	}
	w, _, err := store.LoadSweep(t.Context(), id)
	if err != nil || w.State != sweep.Refused || w.RefusalCodes[0] != retention.RefuseTooMuch || w.Refusals[0] != "too much" {
		t.Fatalf("got %+v %v", w, err)
	}
	for name, sql := range map[string]string{
		"sweeps_end":         `UPDATE sweeps SET end_time = NULL`,
		"sweeps_refusal":     `UPDATE sweeps SET refusals = '{}'`,
		"sweeps_plan":        `UPDATE sweeps SET state = 'DONE', refusals = '{}', start_time = now()`,
		"sweeps_state_check": `UPDATE sweeps SET state = 'LOST', end_time = NULL, refusals = '{}'`,
		"sweep_items_phase":  `INSERT INTO sweep_items SELECT sweep_id, 'c', 'tombstone', 'erased', '{}', '{}', 0, 0, '' FROM sweeps`,
		"sweep_items_freed":  `INSERT INTO sweep_items SELECT sweep_id, 'c', 'tombstone', 'done', '{}', '{}', 0, 5, '' FROM sweeps`,
		"plans_plan_hash_check": `INSERT INTO plans (plan_hash, policy_version, policy_hash, policy_text, inventory_hash, inventory, plan_time, tightened, changes, create_time)
			VALUES ('x', '', '', '', '', '', now(), false, '{}', now())`,
	} {
		if _, err := pool.Exec(t.Context(), sql); !pg.IsCheck(err, name) {
			t.Errorf("%s did not hold: %v", name, err)
		}
	}
}

func TestHoldsRunOut(t *testing.T) {
	t.Parallel()
	store, _ := setup(t)
	hold := func(until time.Time) {
		_, _, err := postgres.Once(t.Context(), store, uuid.NewString(), "RestoreCheckpoint", &janitorv1.RestoreCheckpointRequest{}, now,
			func(tx postgres.Tx) (*janitorv1.RestoreCheckpointResponse, error) {
				return &janitorv1.RestoreCheckpointResponse{}, tx.AddHold(t.Context(), "c", "person/ana", now, until)
			})
		if err != nil {
			t.Fatal(err)
		}
	}
	hold(now.Add(2 * time.Hour))
	hold(now.Add(time.Hour)) // an earlier end does not shorten
	holds, err := store.Holds(t.Context(), now.Add(90*time.Minute))
	if err != nil || holds["c"].Detail != "person/ana" || !holds["c"].Until.Equal(now.Add(2*time.Hour)) {
		t.Fatalf("got %+v %v", holds, err)
	}
	if holds, err = store.Holds(t.Context(), now.Add(2*time.Hour)); err != nil || len(holds) != 0 {
		t.Fatalf("got %+v %v", holds, err)
	}
}

func TestSamplesAndPrune(t *testing.T) {
	t.Parallel()
	store, pool := setup(t)
	ctx := t.Context()
	for _, days := range []int{800, 3, 2, 2} {
		if err := store.AddSamples(ctx, now.AddDate(0, 0, -days), []usage.Class{{Name: usage.Total, Objects: 1, Bytes: int64(days)}, {Name: "top ranked", Bytes: 1}}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 53 {
		plan, _ := somePlan(t, now.Add(time.Duration(i)*time.Minute))
		if err := store.SavePlan(ctx, postgres.PlanRecord{Plan: plan, PolicyText: []byte("p"), Inventory: []byte("i")}, plan.Now); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Prune(ctx, now); err != nil {
		t.Fatal(err)
	}
	history, err := store.History(ctx, time.Time{})
	points := history[usage.Total]
	if err != nil || len(points) != 2 || points[0].Bytes != 3 || points[1].Bytes != 2 || len(history["top ranked"]) != 2 {
		t.Fatalf("got %v %v", history, err)
	}
	var keeps, drops, inventories int
	err = errors.Join(
		pool.QueryRow(ctx, `SELECT count(DISTINCT plan_hash) FROM decisions WHERE verdict = 'keep'`).Scan(&keeps),
		pool.QueryRow(ctx, `SELECT count(DISTINCT plan_hash) FROM decisions WHERE verdict = 'drop'`).Scan(&drops),
		pool.QueryRow(ctx, `SELECT count(*) FROM plans WHERE inventory <> ''`).Scan(&inventories))
	if err != nil || keeps != 50 || drops != 53 || inventories != 50 {
		t.Fatalf("%d plans with keeps, %d with drops, %d with inventories, %v", keeps, drops, inventories, err)
	}
}
