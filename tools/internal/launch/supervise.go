package launch

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	readyTimeout = 60 * time.Second
	readyPoll    = 25 * time.Millisecond
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = 10 * time.Second
	// steady is how long a part must have run for its next restart to be quick again.
	steady = 30 * time.Second
)

// unit is a part of the mesh under supervision.
type unit struct {
	name  string
	start func(ctx context.Context) (child, error)
	// ready returns nil as soon as the part answers.
	ready func(ctx context.Context) error

	cancel  context.CancelFunc
	stopped chan struct{}
	stopErr error
}

// supervisor runs units in order and keeps them running.
type supervisor struct {
	event   func(Event)
	started func(name string, pid int)
	running []*unit
}

// up starts a stage: all of its units at once, then it waits until each answers.
// A unit that does not come up the first time fails the stage: what cannot start
// will not start better in a loop, and the person should see why.
func (s *supervisor) up(ctx context.Context, stage ...*unit) error {
	children := make([]child, len(stage))
	for i, u := range stage {
		c, err := u.start(ctx)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", u.name, err), stopAll(ctx, children[:i]))
		}
		children[i] = c
		s.started(u.name, c.PID())
	}
	for i, u := range stage {
		begun := time.Now()
		if err := waitReady(ctx, u, children[i]); err != nil {
			return errors.Join(fmt.Errorf("%s: %w", u.name, err), stopAll(ctx, children[i:]))
		}
		s.event(Event{Unit: u.name, Kind: Started, PID: children[i].PID(), Took: time.Since(begun)})
		s.adopt(ctx, u, children[i])
	}
	return nil
}

func stopAll(ctx context.Context, children []child) error {
	var err error
	for i := len(children) - 1; i >= 0; i-- {
		err = errors.Join(err, children[i].Stop(context.WithoutCancel(ctx)))
	}
	return err
}

func (s *supervisor) adopt(ctx context.Context, u *unit, c child) {
	// Parts stop in order, not all at once when ctx ends.
	ctx, u.cancel = context.WithCancel(context.WithoutCancel(ctx))
	u.stopped = make(chan struct{})
	s.running = append(s.running, u)
	go func() {
		defer close(u.stopped)
		u.stopErr = s.keep(ctx, u, c)
	}()
}

// keep restarts a unit whenever it ends, until ctx does; then it stops it.
func (s *supervisor) keep(ctx context.Context, u *unit, c child) error {
	backoff := firstBackoff
	since := time.Now()
	for {
		if c != nil {
			select {
			case <-ctx.Done():
				return c.Stop(context.WithoutCancel(ctx))
			case <-c.Done():
			}
			if time.Since(since) > steady {
				backoff = firstBackoff
			}
			err := c.Err()
			// Frees what the part held (its log, its lock) besides its process.
			_ = c.Stop(context.WithoutCancel(ctx))
			s.event(Event{Unit: u.name, Kind: Died, Err: err, Took: backoff})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, lastBackoff)
		since = time.Now()
		next, err := u.start(ctx)
		if err != nil {
			c = nil
			s.event(Event{Unit: u.name, Kind: Died, Err: err, Took: backoff})
			continue
		}
		c = next
		s.started(u.name, c.PID())
		if err := waitReady(ctx, u, c); err == nil {
			s.event(Event{Unit: u.name, Kind: Restarted, PID: c.PID(), Took: time.Since(since)})
		}
	}
}

// down stops everything in reverse order.
func (s *supervisor) down() error {
	var err error
	for i := len(s.running) - 1; i >= 0; i-- {
		u := s.running[i]
		u.cancel()
		<-u.stopped
		if u.stopErr != nil {
			err = errors.Join(err, fmt.Errorf("stop %s: %w", u.name, u.stopErr))
		}
	}
	s.running = nil
	return err
}

func waitReady(ctx context.Context, u *unit, c child) error {
	if u.ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var last error
	for {
		if last = u.ready(ctx); last == nil {
			return nil
		}
		select {
		case <-c.Done():
			return fmt.Errorf("ended while it started: %w", c.Err())
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("no answer within %s: %w", readyTimeout, last)
			}
			return context.Cause(ctx)
		case <-time.After(readyPoll):
		}
	}
}
