// Package mlflowmirror feeds a real MLflow server with everything that the registry holds:
// exactly one effect over there for each change here, however often either side is killed
// and however many answers are lost. Changes wait in an outbox that was written in their own
// transaction; nothing that trains ever waits for the other server.
//
// A lane (a run or a model) has one holder at a time. A run's lane sends frozen requests in
// order; a model's lane compares the whole model and repairs what differs.
package mlflowmirror

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// Config is what a mirror works with.
type Config struct {
	Store   *postgres.Store
	Objects *objectstore.Store
	Log     *zap.Logger
	Metrics prometheus.Registerer
	// Target is the MLflow server's address, such as http://mlflow:5000; Token, when not
	// empty, is shown to it as a bearer token.
	Target, Token string
	Timing        Timing
}

// Timing is the mirror's clockwork; zero fields get the defaults behind them.
type Timing struct {
	Poll       time.Duration // how often an idle mirror looks, 250 ms
	Lease      time.Duration // how long a silent holder keeps a lane, 20 s
	Request    time.Duration // bound of a request without a file, 10 s; below Lease
	Backoff    time.Duration // first wait after a failure, 500 ms, doubled up to a minute
	Quiet      time.Duration // how long a lane rests before it is compared, 30 s
	Reconcile  time.Duration // how often every model is compared, 10 min
	MaxBackoff time.Duration // 1 min
}

func (t Timing) withDefaults() Timing {
	for _, d := range []struct {
		field    *time.Duration
		standard time.Duration
	}{
		{&t.Poll, 250 * time.Millisecond}, {&t.Lease, 20 * time.Second}, {&t.Request, 10 * time.Second}, {&t.Backoff, 500 * time.Millisecond},
		{&t.Quiet, 30 * time.Second}, {&t.Reconcile, 10 * time.Minute}, {&t.MaxBackoff, time.Minute},
	} {
		if *d.field == 0 {
			*d.field = d.standard
		}
	}
	return t
}

// parallel is how many lanes are sent side by side: MLflow's own default of workers.
const parallel = 4

// Mirror sends the outbox.
type Mirror struct {
	Config
	client  *client
	breaker breaker
	holder  string
	meters  meters
	// experiments serializes their creation: many runs of a new experiment start at once.
	experiments sync.Mutex
}

// New checks the configuration and makes the store remember every change from here on.
func New(ctx context.Context, cfg Config) (*Mirror, error) {
	target, err := url.Parse(cfg.Target)
	if err != nil || target.Scheme != "http" && target.Scheme != "https" || target.Host == "" {
		return nil, fmt.Errorf("mlflow-mirror: %q is not the address of an MLflow server, such as http://mlflow:5000", cfg.Target)
	}
	cfg.Timing = cfg.Timing.withDefaults()
	m := &Mirror{Config: cfg, holder: uuid.NewString()}
	m.client = &client{base: strings.TrimRight(cfg.Target, "/"), token: cfg.Token, limit: cfg.Timing.Request,
		http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: parallel, IdleConnTimeout: 30 * time.Second, ResponseHeaderTimeout: time.Minute}}}
	m.breaker = breaker{first: cfg.Timing.Backoff, most: cfg.Timing.MaxBackoff}
	if m.meters, err = newMeters(cfg.Metrics); err != nil {
		return nil, err
	}
	if err := cfg.Store.FollowTarget(ctx, m.client.base, time.Now()); err != nil {
		return nil, err
	}
	return m, nil
}

// Run sends until ctx ends.
func (m *Mirror) Run(ctx context.Context) error {
	defer m.client.http.CloseIdleConnections()
	m.Log.Info("mirroring to MLflow", zap.String("target", m.client.base))
	var lanes sync.WaitGroup
	defer lanes.Wait()
	free := make(chan struct{}, parallel)
	var reconcile, observed time.Time
	for {
		if now := time.Now(); now.Sub(observed) > time.Second {
			observed = now
			m.observe(ctx)
		}
		if now := time.Now(); now.After(reconcile) {
			reconcile = now.Add(m.Timing.Reconcile)
			if err := m.compareModels(ctx, now); err != nil && ctx.Err() == nil {
				m.Log.Warn("models wait for their comparison", zap.Error(err))
			}
		}
		rest := m.breaker.rest(time.Now())
		for rest == 0 && ctx.Err() == nil {
			free <- struct{}{} // blocks while all are at work
			work, err := m.claim(ctx)
			if err != nil || work == nil {
				<-free
				if err != nil && ctx.Err() == nil {
					m.Log.Warn("the outbox cannot be read", zap.Error(err))
				}
				break
			}
			if m.breaker.probing() {
				work() // one lane tries whether the server is back
				<-free
			} else {
				lanes.Go(func() {
					defer func() { <-free }()
					work()
				})
			}
			rest = m.breaker.rest(time.Now())
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(max(m.Timing.Poll, min(rest, time.Second))):
		}
	}
}

// claim finds the next thing to do: a lane to send, something the mirror never heard of, or
// a lane to compare.
func (m *Mirror) claim(ctx context.Context) (func(), error) {
	now := time.Now()
	lane, ok, err := m.Store.ClaimLane(ctx, m.holder, now, m.Timing.Lease)
	if err != nil {
		return nil, err
	}
	if ok {
		return func() { m.hold(ctx, lane, m.serve) }, nil
	}
	if ok, err = m.Store.Backfill(ctx, now); err != nil || ok {
		return func() {}, err
	}
	lane, ok, err = m.Store.ClaimUnverified(ctx, m.holder, now, m.Timing.Lease, m.Timing.Quiet)
	if err != nil || !ok {
		return nil, err
	}
	return func() { m.hold(ctx, lane, m.verify) }, nil
}

// errWait postpones a lane that waits for another one; that is no failure.
var errWait = errors.New("waits for the files of its run")

// errGone says that a run is not over there any more.
var errGone = errors.New("the run is gone over there")

// hold works on a lane for as long as its lease lasts, and gives it back.
func (m *Mirror) hold(ctx context.Context, lane postgres.Lane, work func(context.Context, postgres.Lane) error) {
	working, cancel := context.WithCancelCause(ctx)
	beat := make(chan struct{})
	go func() {
		defer close(beat)
		tick := time.NewTicker(m.Timing.Lease / 4)
		defer tick.Stop()
		for {
			select {
			case <-working.Done():
				return
			case now := <-tick.C:
				if err := m.Store.ExtendLane(working, lane, now.Add(m.Timing.Lease)); errors.Is(err, postgres.ErrLaneLost) {
					cancel(err)
				}
			}
		}
	}()
	err := work(working, lane)
	cancel(nil)
	<-beat
	// The lane is given back even when the process stops: the next one need not wait.
	after, done := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer done()
	if err = m.giveBack(after, lane, err); err != nil && !errors.Is(err, postgres.ErrLaneLost) {
		m.Log.Warn("lane was not given back; its lease ends by itself", zap.String("lane", lane.Name), zap.Error(err))
	}
}

func (m *Mirror) giveBack(ctx context.Context, lane postgres.Lane, err error) error {
	now := time.Now()
	var refused *refusal
	var lost unreachable
	switch {
	case err == nil:
		m.breaker.succeed()
		return m.Store.ReleaseLane(ctx, lane, now)
	case errors.Is(err, errWait):
		return m.Store.PostponeLane(ctx, lane, now, now.Add(m.Timing.Backoff), err.Error())
	case errors.Is(err, errGone):
		m.Log.Warn("a run is gone over there; it is sent anew, whole", zap.String("lane", lane.Name))
		m.meters.divergence.WithLabelValues("run").Inc()
		return m.Store.RestartLane(ctx, lane)
	case errors.Is(err, context.Canceled), errors.Is(err, postgres.ErrLaneLost):
		return m.Store.ReleaseLane(ctx, lane, now)
	case errors.As(err, &lost), errors.As(err, &refused) && refused.passing():
		m.breaker.fail(now)
	}
	wait := min(m.Timing.Backoff<<min(lane.Failures, 20), m.Timing.MaxBackoff)
	wait += rand.N(wait/2 + 1)
	if refused != nil {
		wait = max(wait, min(refused.retryAfter, m.Timing.MaxBackoff))
	}
	m.Log.Info("lane postponed", zap.String("lane", lane.Name), zap.Duration("retry_in", wait), zap.Error(err))
	return m.Store.PostponeLane(ctx, lane, now, now.Add(wait), shorten(err.Error()))
}

// serve sends what waits in a lane.
func (m *Mirror) serve(ctx context.Context, lane postgres.Lane) error {
	if id, ok := outbox.ModelOf(lane.Name); ok {
		return m.serveModel(ctx, lane, id)
	}
	run, _ := outbox.RunOf(lane.Name)
	return m.serveRun(ctx, lane, run)
}

// compareModels makes every model due: promotions over there by hand are taken back.
func (m *Mirror) compareModels(ctx context.Context, now time.Time) error {
	return m.Store.Do(ctx, now, func(t *postgres.Tx) error { return t.TellModels(ctx) })
}
