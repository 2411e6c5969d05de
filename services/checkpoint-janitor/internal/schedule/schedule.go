// Package schedule makes the janitor work without being asked: sweeps at an
// interval, shorter while the disk is full; sweeps that a crash has left; the
// daily report; and the watch over growth and alerts. Training goes on
// meanwhile: nothing here stops a job.
package schedule

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// Store is the loop's memory.
type Store interface {
	OpenSweep(ctx context.Context, w sweep.Sweep) error
	LastEnd(ctx context.Context) (time.Time, error)
	History(ctx context.Context, since time.Time) (usage.History, error)
	Prune(ctx context.Context, now time.Time) error
	LastDrill(ctx context.Context) (drill.Record, bool, error)
	FindDrill(ctx context.Context, id string) (drill.Record, bool, error)
	SaveDrill(ctx context.Context, d drill.Record) error
}

// Planner takes stock and decides.
type Planner interface {
	Decide(ctx context.Context, now time.Time) (retention.Plan, inventory.Stock, error)
	Sample(ctx context.Context, plan retention.Plan, stock inventory.Stock) error
	Policy() retention.Policy
}

// Sweeper carries sweeps on.
type Sweeper interface {
	Run(ctx context.Context, id string) (sweep.Sweep, error)
	Resume(ctx context.Context) error
}

// Meter shows growth, alerts and what was read back.
type Meter interface {
	Grew(perDay float64, open map[string]bool)
	Scrubbed(r scrub.Result)
	Drilled(r drill.Record)
	Sent(err error)
}

// Driller restores samples.
type Driller interface {
	Run(ctx context.Context, n int, seed uint64) (drill.Record, error)
}

// Sender sends reports away.
type Sender interface {
	Send(ctx context.Context, r report.Report) error
}

// Scrubber reads objects back.
type Scrubber interface {
	Round(ctx context.Context, now time.Time, elapsed time.Duration) (scrub.Result, error)
}

const (
	// tick is how often unfinished sweeps are looked for.
	tick = 30 * time.Second
	// growthWindow is what the growth is measured over.
	growthWindow = 7 * 24 * time.Hour
	// fullHurry divides the interval while the disk is full.
	fullHurry   = 4
	reportEvery = 24 * time.Hour
	reportRetry = 15 * time.Minute
)

// Loop runs the schedule.
type Loop struct {
	Store      Store
	Planner    Planner
	Sweeper    Sweeper
	Scrubber   Scrubber
	Driller    Driller
	Meter      Meter
	Log        *zap.Logger
	Interval   time.Duration
	ReportFile string
	// Sender gets the daily report; nil is none.
	Sender Sender

	mu        sync.Mutex
	tightened bool
	started   time.Time
}

// Run works until ctx ends. A failed round is logged and tried again: a janitor
// that gives up is a full disk a week later.
func (l *Loop) Run(ctx context.Context) error {
	now := sweep.Now()
	l.mu.Lock()
	l.started = now
	l.mu.Unlock()
	next, nextReport := l.firstSweep(ctx, now), now
	every := tick
	if l.Interval > 0 {
		every = min(every, l.Interval)
	}
	timer := time.NewTicker(every)
	defer timer.Stop()
	for {
		if err := l.Sweeper.Resume(ctx); err != nil && ctx.Err() == nil {
			l.Log.Warn("an unfinished sweep cannot go on", zap.Error(err))
		}
		now = sweep.Now()
		if l.Interval > 0 && !now.Before(next) {
			l.round(ctx, now)
			next = now.Add(l.pause())
		}
		if (l.ReportFile != "" || l.Sender != nil) && !now.Before(nextReport) {
			if err := l.publish(ctx, now); err != nil && ctx.Err() == nil {
				l.Log.Warn("the report did not get out; it is tried again", zap.Error(err))
				nextReport = now.Add(reportRetry)
			} else {
				nextReport = now.Add(reportEvery)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
	}
}

// firstSweep keeps the interval across restarts, so that a service that is
// restarted every hour neither sweeps at each start nor never.
func (l *Loop) firstSweep(ctx context.Context, now time.Time) time.Time {
	end, err := l.Store.LastEnd(ctx)
	if err != nil || end.IsZero() || end.After(now) {
		return now.Add(l.Interval)
	}
	return end.Add(l.Interval)
}

func (l *Loop) pause() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tightened {
		return l.Interval / fullHurry
	}
	return l.Interval
}

// round is one scheduled sweep with its report.
func (l *Loop) round(ctx context.Context, now time.Time) {
	if err := l.sweepOnce(ctx, now); err != nil && ctx.Err() == nil {
		l.Log.Warn("the scheduled sweep did not end", zap.Error(err))
	}
	l.scrub(ctx, now)
	l.weekly(ctx, now)
	r, err := l.Report(ctx, sweep.Now())
	if err != nil {
		if ctx.Err() == nil {
			l.Log.Warn("the store could not be judged", zap.Error(err))
		}
		return
	}
	for _, a := range r.Alerts {
		l.Log.Warn("alert", zap.String("alert", a.Name), zap.String("text", a.Text))
	}
	if err := l.Store.Prune(ctx, now); err != nil && ctx.Err() == nil {
		l.Log.Warn("old records could not be pruned", zap.Error(err))
	}
}

// scrub reads back what is new and one interval's share of the rest.
func (l *Loop) scrub(ctx context.Context, now time.Time) {
	found, err := l.Scrubber.Round(ctx, now, l.Interval)
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("the scrub did not end", zap.Error(err))
	}
	for _, f := range found.Bad {
		l.Log.Error("an object is not what it should be", zap.String("key", f.Key), zap.Int64("bytes", f.Bytes), zap.Bool("missing", f.Missing),
			zap.Bool("repaired", f.Repaired), zap.String("outcome", f.Outcome))
	}
	l.Meter.Scrubbed(found)
}

// weekly drills when the last drill is a week old. A drill that could not end is not
// counted and comes again with the next round.
func (l *Loop) weekly(ctx context.Context, now time.Time) {
	last, found, err := l.Store.LastDrill(ctx)
	if err == nil && found && now.Sub(last.EndTime) < drill.Every && !last.EndTime.After(now) {
		return
	}
	id, ierr := uuid.NewV7()
	if err = errors.Join(err, ierr); err == nil {
		_, err = l.Drill(ctx, id.String(), "schedule", drill.Sample)
	}
	if err != nil && ctx.Err() == nil {
		l.Log.Warn("the restore drill did not end", zap.Error(err))
	}
}

// Drill restores a sample and records the outcome. The same id again is the same drill.
func (l *Loop) Drill(ctx context.Context, id, caller string, n int) (drill.Record, error) {
	if done, found, err := l.Store.FindDrill(ctx, id); err != nil || found {
		return done, err
	}
	seed := uint64(sweep.Now().UnixNano())
	r, err := l.Driller.Run(ctx, n, seed)
	if err != nil {
		return r, err
	}
	r.ID, r.Caller, r.EndTime = id, caller, sweep.Now()
	for _, f := range r.Failures {
		l.Log.Error("the restore drill has failed", zap.String("problem", f))
	}
	l.Meter.Drilled(r)
	return r, l.Store.SaveDrill(ctx, r)
}

func (l *Loop) sweepOnce(ctx context.Context, now time.Time) error {
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	w := sweep.Sweep{ID: id.String(), Trigger: sweep.BySchedule, Caller: "schedule", CreateTime: now}
	if err := l.Store.OpenSweep(ctx, w); err != nil {
		return err
	}
	_, err = l.Sweeper.Run(ctx, w.ID)
	return err
}

// Report takes stock and reports.
func (l *Loop) Report(ctx context.Context, now time.Time) (report.Report, error) {
	plan, stock, err := l.Planner.Decide(ctx, now)
	if err != nil {
		return report.Report{}, err
	}
	if err := l.Planner.Sample(ctx, plan, stock); err != nil {
		return report.Report{}, err
	}
	history, err := l.Store.History(ctx, now.Add(-growthWindow))
	if err != nil {
		return report.Report{}, err
	}
	end, err := l.Store.LastEnd(ctx)
	if err != nil {
		return report.Report{}, err
	}
	drilled, hasDrill, err := l.Store.LastDrill(ctx)
	if err != nil {
		return report.Report{}, err
	}
	l.mu.Lock()
	l.tightened = plan.Tightened
	started := l.started
	l.mu.Unlock()
	facts := report.Facts{Plan: plan, Stock: stock, Watermark: l.Planner.Policy().Watermark, History: history, LastSweep: end}
	if hasDrill {
		facts.Drill = &drilled
	}
	if l.Interval > 0 {
		since := end
		if started.After(since) {
			since = started
		}
		facts.SweepDue = since.Add(2*l.Interval + time.Hour)
	}
	r := report.Make(facts, now)
	l.Meter.Grew(r.GrowthPerDay, r.Open())
	return r, nil
}

// KnownForm says whether a report can be written to a file of this name.
func KnownForm(path string) bool {
	switch filepath.Ext(path) {
	case ".html", ".json", ".txt":
		return true
	}
	return false
}

// publish writes the daily report and sends it.
func (l *Loop) publish(ctx context.Context, now time.Time) error {
	r, err := l.Report(ctx, now)
	if err != nil {
		return err
	}
	if l.ReportFile != "" {
		err = l.writeReport(r)
	}
	if l.Sender != nil {
		sent := l.Sender.Send(ctx, r)
		l.Meter.Sent(sent)
		err = errors.Join(err, sent)
	}
	return err
}

// writeReport replaces the file in one step: whoever reads it sees the old
// report or the new one.
func (l *Loop) writeReport(r report.Report) (err error) {
	text := r.Text()
	switch strings.ToLower(filepath.Ext(l.ReportFile)) {
	case ".html":
		text, err = r.HTML()
	case ".json":
		text, err = r.JSON()
	}
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(l.ReportFile), ".report-*")
	if err != nil {
		return fmt.Errorf("make room for the report: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	if _, err := tmp.WriteString(text); err != nil {
		return errors.Join(err, tmp.Close())
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), l.ReportFile)
}
