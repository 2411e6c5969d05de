package schedule

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// janitor stands for everything the loop drives; only the loop's goroutine
// touches it until the bubble is quiet.
type janitor struct {
	opened  []time.Time
	ran     int
	resumed int
	// scrubbed counts rounds of reading back.
	scrubbed int
	drilled  int
	sent     int
	drill    drill.Record
	ends     time.Time
	used     int64
	fail     error
	alerts   map[string]bool
}

func (j *janitor) OpenSweep(_ context.Context, w sweep.Sweep) error {
	j.opened = append(j.opened, w.CreateTime)
	return j.fail
}
func (j *janitor) LastEnd(context.Context) (time.Time, error) { return j.ends, nil }
func (j *janitor) History(context.Context, time.Time) (usage.History, error) {
	return nil, nil
}
func (j *janitor) Prune(context.Context, time.Time) error { return j.fail }
func (j *janitor) Decide(_ context.Context, now time.Time) (retention.Plan, inventory.Stock, error) {
	stock := inventory.Stock{BucketBytes: j.used}
	stock.Usage = retention.Usage{UsedBytes: j.used, CapacityBytes: 100}
	plan, err := retention.Decide(retention.DefaultPolicy(), stock.Inventory, now)
	return plan, stock, err
}
func (j *janitor) Sample(context.Context, retention.Plan, inventory.Stock) error { return nil }
func (j *janitor) Policy() retention.Policy                                      { return retention.DefaultPolicy() }
func (j *janitor) Run(context.Context, string) (sweep.Sweep, error) {
	j.ran++
	j.ends = sweep.Now()
	return sweep.Sweep{}, j.fail
}
func (j *janitor) Resume(context.Context) error { j.resumed++; return j.fail }
func (j *janitor) Round(context.Context, time.Time, time.Duration) (scrub.Result, error) {
	j.scrubbed++
	return scrub.Result{}, j.fail
}
func (j *janitor) Scrubbed(scrub.Result) {}
func (j *janitor) Drilled(drill.Record)  { j.drilled++ }
func (j *janitor) Sent(error)            { j.sent++ }
func (j *janitor) LastDrill(context.Context) (drill.Record, bool, error) {
	return j.drill, j.drill.ID != "", nil
}
func (j *janitor) FindDrill(context.Context, string) (drill.Record, bool, error) {
	return drill.Record{}, false, nil
}
func (j *janitor) SaveDrill(_ context.Context, d drill.Record) error {
	j.drill = d
	return nil
}

// driller and sender have methods of the same names as the rest.
type driller struct{}

func (driller) Run(context.Context, int, uint64) (drill.Record, error) { return drill.Record{}, nil }

type sender struct{ fails int }

func (s *sender) Send(context.Context, report.Report) error {
	if s.fails > 0 {
		s.fails--
		return errors.New("away")
	}
	return nil
}

// A drill runs once a week; a report that did not get out is sent again soon, else daily.
func TestDrillsAreWeeklyAndReportsDaily(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{}
		live(t, j, &Loop{Interval: time.Hour, Sender: &sender{fails: 1}}, 15*24*time.Hour+30*time.Minute)
		if j.drilled != 3 {
			t.Errorf("%d drills in 15 days", j.drilled)
		}
		if j.sent != 17 {
			t.Errorf("%d reports in 15 days with one failure", j.sent)
		}
	})
}
func (j *janitor) Grew(_ float64, open map[string]bool) {
	j.alerts = open
}

// live runs the loop for a virtual time.
func live(t *testing.T, j *janitor, l *Loop, d time.Duration) {
	t.Helper()
	l.Store, l.Planner, l.Sweeper, l.Scrubber, l.Driller, l.Meter, l.Log = j, j, j, j, driller{}, j, zap.NewNop()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	time.Sleep(d)
	synctest.Wait()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("the loop ended with %v", err)
	}
}

func TestSweepsKeepTheirInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{}
		live(t, j, &Loop{Interval: time.Hour}, 24*time.Hour+time.Minute)
		if j.ran != 24 || j.scrubbed != 24 {
			t.Errorf("%d sweeps and %d scrubs in a day", j.ran, j.scrubbed)
		}
		if j.resumed < 24*60*2 {
			t.Errorf("unfinished sweeps were looked for %d times", j.resumed)
		}
	})
}

func TestAFullDiskHurries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{used: 80}
		live(t, j, &Loop{Interval: time.Hour}, 3*time.Hour+time.Minute)
		if j.ran != 9 { // one after an hour, then every quarter
			t.Errorf("%d sweeps", j.ran)
		}
		if !j.alerts[report.AlertDisk] {
			t.Errorf("no alert at 80 %%: %v", j.alerts)
		}
	})
}

func TestARestartKeepsTheInterval(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{ends: time.Now().Add(-50 * time.Minute)}
		start := time.Now()
		live(t, j, &Loop{Interval: time.Hour}, 15*time.Minute)
		if len(j.opened) != 1 || j.opened[0].Sub(start) != 10*time.Minute {
			t.Errorf("sweeps at %v", j.opened)
		}
	})
}

func TestOnDemandOnlyNeverSweeps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{}
		live(t, j, &Loop{}, 48*time.Hour)
		if j.ran != 0 || j.resumed == 0 {
			t.Errorf("%d sweeps, %d looks for unfinished ones", j.ran, j.resumed)
		}
	})
}

func TestNothingEndsTheLoop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		j := &janitor{fail: errors.New("away")}
		live(t, j, &Loop{Interval: time.Hour, ReportFile: filepath.Join(t.TempDir(), "none", "r.txt")}, 5*time.Hour+time.Minute)
		if len(j.opened) != 5 {
			t.Errorf("%d tries in five hours", len(j.opened))
		}
		if !j.alerts[report.AlertSweep] {
			t.Errorf("nobody is told that no sweep ends: %v", j.alerts)
		}
	})
}

func TestReportFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, want := range map[string]string{"r.txt": "Checkpoint store,", "r.html": "<!doctype html>", "r.json": `"total_bytes": 42`} {
		j := &janitor{used: 42}
		l := &Loop{Store: j, Planner: j, Meter: j, ReportFile: filepath.Join(dir, name)}
		for range 2 { // the second replaces the first
			if err := l.publish(t.Context(), sweep.Now()); err != nil {
				t.Fatal(err)
			}
		}
		if raw, err := os.ReadFile(l.ReportFile); err != nil || !strings.Contains(string(raw), want) {
			t.Errorf("%s: %v, %q", name, err, raw)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 3 || slices.ContainsFunc(left, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".") }) {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if KnownForm("x.pdf") || !KnownForm("x.html") {
		t.Error("forms")
	}
}
