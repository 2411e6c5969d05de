package trainer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/features"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// pollEvery is how often a Data Service that went away is asked again.
const pollEvery = 5 * time.Second

// outages is the part of the report client that data needs.
type outages interface {
	DataOutage(ctx context.Context, active bool, message string) error
	Order() run.Order
	Changed() <-chan struct{}
}

// data gets the table and tells the agent when its service is away. How long that
// may last is the scheduler's decision: it stops the attempt and frees the device.
type data struct {
	source *features.Client
	client outages
	log    *zap.Logger
	every  time.Duration
}

// table returns the features, waiting for the service as long as the agent lets
// it. The snapshot is nil when the attempt ends here.
func (d *data) table(ctx context.Context, symbol, timeframe string) (*features.Snapshot, run.Ending, error) {
	reported := false
	for {
		s, err := d.source.Table(ctx, symbol, timeframe)
		var refused *features.RefusedError
		var away *features.UnavailableError
		switch {
		case err == nil:
			if reported {
				err = d.client.DataOutage(ctx, false, "the data service is back")
			}
			if err != nil {
				return nil, run.Ending{}, errors.Join(err, s.Close())
			}
			return s, run.Ending{}, nil
		case errors.As(err, &refused):
			return nil, run.BadConfiguration(problemsOf(refused)), nil
		case ctx.Err() != nil:
			return nil, run.Ending{}, context.Cause(ctx)
		case !errors.As(err, &away):
			return nil, run.Failure(run.ClassCrash, err.Error()), nil
		}
		if !reported {
			d.log.Warn("no features and none cached: waiting for the data service", zap.Error(err))
			if err := d.client.DataOutage(ctx, true, err.Error()); err != nil {
				return nil, run.Ending{}, err
			}
			reported = true
		}
		for wait := time.After(d.every); wait != nil; {
			changed := d.client.Changed()
			if o := d.client.Order(); o.Stop {
				return nil, run.Ending{Outcome: run.Stopped, Message: "stopped while waiting for the data service: " + o.Reason}, nil
			}
			select {
			case <-wait:
				wait = nil
			case <-changed:
			case <-ctx.Done():
				return nil, run.Ending{}, context.Cause(ctx)
			}
		}
	}
}

// watch reports an outage that began before the training and its end. The
// training itself needs the service no more: the table is in memory.
func (d *data) watch(ctx context.Context, s *features.Snapshot) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	if s.Stale {
		d.log.Warn("training on cached features", zap.String("warning", s.Warning))
		wg.Go(func() {
			if err := d.client.DataOutage(ctx, true, s.Warning); err != nil {
				return
			}
			for d.source.Reachable(ctx) != nil {
				select {
				case <-time.After(d.every):
				case <-ctx.Done():
					return
				}
			}
			// A reporter that is gone ends the training by itself.
			_ = d.client.DataOutage(ctx, false, "the data service is back")
		})
	}
	return func() {
		cancel()
		wg.Wait()
	}
}

// problemsOf names what the service refused, with what it has instead.
func problemsOf(e *features.RefusedError) []market.Problem {
	var have []string
	for symbol, frames := range e.Available {
		have = append(have, fmt.Sprintf("%s (%s)", symbol, strings.Join(frames, ", ")))
	}
	slices.Sort(have)
	text := e.Error()
	if len(have) > 0 {
		text += "; it has " + strings.Join(have, ", ")
	}
	out := []market.Problem{{Field: "native.symbol, native.timeframe", Description: text}}
	for _, p := range e.Problems {
		out = append(out, market.Problem{Field: "history", Description: p})
	}
	return out
}
