package lifecycle

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"
)

// DefaultStopTimeout bounds the whole stop of a Group. It is above the drain of
// a server (reliability: a rolling restart answers what it has accepted).
const DefaultStopTimeout = 30 * time.Second

// Group runs members together. The zero value is ready. Members start in the
// order of Add; when ctx ends or a member fails they stop in reverse order, each
// one only after all later ones have returned. This is why a Group is not an
// errgroup: there every member loses its context at the same moment, and a
// handler in its last transaction would find the pool closed.
type Group struct {
	// StopTimeout bounds the stop of all members together; zero means DefaultStopTimeout.
	StopTimeout time.Duration

	members []*member
}

type member struct {
	name   string
	run    func(ctx context.Context) error
	stop   func(ctx context.Context) error
	cancel context.CancelFunc
	done   chan struct{}
}

// Add registers a member. run works until its context ends, then returns. A nil
// error before that means the member has finished its work: the others go on. An
// error ends the group.
func (g *Group) Add(name string, run func(ctx context.Context) error) {
	g.members = append(g.members, &member{name: name, run: run})
}

// OnStop registers a closer. It takes its place in the order of Add: it runs after
// everything that was added later has returned. Its context carries the time
// that is left to stop in.
func (g *Group) OnStop(name string, fn func(ctx context.Context) error) {
	g.members = append(g.members, &member{name: name, stop: fn})
}

// Run starts the members and blocks until all have stopped. It returns the first
// failure, wrapped in its member's name, joined with what went wrong while
// stopping; nil when ctx ended or every member finished its work.
func (g *Group) Run(ctx context.Context) error {
	var (
		once  sync.Once
		first error
		wg    sync.WaitGroup
	)
	failed := make(chan struct{})
	for _, m := range g.members {
		if m.run == nil {
			continue
		}
		// Values (trace ids, loggers) pass to the member, the end of ctx does not:
		// it has to come in order.
		mctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		m.cancel, m.done = cancel, make(chan struct{})
		wg.Go(func() {
			defer close(m.done)
			err := m.run(mctx)
			if err == nil || (mctx.Err() != nil && errors.Is(err, context.Canceled)) {
				return
			}
			once.Do(func() {
				first = fmt.Errorf("%s: %w", m.name, err)
				close(failed)
			})
		})
	}
	finished := make(chan struct{})
	go func() {
		wg.Wait()
		close(finished)
	}()

	select {
	case <-ctx.Done():
	case <-failed:
	case <-finished:
	}
	stopErr := g.stop(ctx)
	select {
	case <-finished:
		return errors.Join(first, stopErr)
	default:
	}
	// A member is stuck: first may still be written, so read it only when it was.
	select {
	case <-failed:
		return errors.Join(first, stopErr)
	default:
		return stopErr
	}
}

func (g *Group) stop(ctx context.Context) error {
	timeout := g.StopTimeout
	if timeout == 0 {
		timeout = DefaultStopTimeout
	}
	sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	var errs []error
	var stuck []string
	for i := len(g.members) - 1; i >= 0; i-- {
		m := g.members[i]
		if m.stop != nil {
			if err := m.stop(sctx); err != nil {
				errs = append(errs, fmt.Errorf("stop %s: %w", m.name, err))
			}
			continue
		}
		m.cancel()
		select {
		case <-m.done:
		case <-sctx.Done():
			// Go on: the ones before it deserve their stop too.
			select {
			case <-m.done:
			default:
				stuck = append(stuck, m.name)
			}
		}
	}
	if len(stuck) > 0 {
		errs = append(errs, fmt.Errorf("still running %s after the stop was asked: %s", timeout, strings.Join(stuck, ", ")))
	}
	return errors.Join(errs...)
}
