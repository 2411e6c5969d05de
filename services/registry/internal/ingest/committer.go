// Package ingest turns the batches of many streams into few commits: a batch waits while
// a commit is under way, and then goes with everything else that waited. The slower the
// disk, the larger the groups; there is no timer to tune. A result is given only after
// the commit, so that an acknowledged batch is durable.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Store applies groups. When it returns without an error everything not refused is durable.
type Store interface {
	ApplyBatches(ctx context.Context, batches []catalog.Batch, now time.Time) ([]catalog.BatchResult, error)
}

const (
	// shards is the number of commits that can be under way at once. A run always goes
	// through the same shard, which is what keeps its batches in order.
	shards = 4
	// groupBatches and groupPoints bound one transaction: beyond some ten thousand rows a
	// larger group only adds latency.
	groupBatches = 512
	groupPoints  = 20_000
	queueLength  = 256
	// commitLimit bounds one group; a database that takes longer is treated as away.
	commitLimit = 30 * time.Second
)

// ErrStopped is the result of a batch that was submitted to a stopped committer.
var ErrStopped = errors.New("the registry is shutting down")

// ErrBroken is the result of a batch whose predecessor on the same lane failed: applying
// it would let it overtake, and the predecessor's resend would then look like a duplicate.
var ErrBroken = errors.New("an earlier batch of this stream failed")

// Lane is one stream's place in the committer. After its first failed batch it is broken
// for good: the stream ends and its client resends on a new one.
type Lane struct{ broken atomic.Bool }

// Pending is a batch whose fate is not known yet.
type Pending struct {
	batch  catalog.Batch
	lane   *Lane
	done   chan struct{}
	result catalog.BatchResult
	err    error
}

// Wait returns the batch's fate.
func (p *Pending) Wait(ctx context.Context) (catalog.BatchResult, error) {
	select {
	case <-p.done:
		return p.result, p.err
	case <-ctx.Done():
		return catalog.BatchResult{}, ctx.Err()
	}
}

func (p *Pending) finish(r catalog.BatchResult, err error) {
	p.result, p.err = r, err
	if err != nil {
		p.lane.broken.Store(true)
	}
	close(p.done)
}

// Committer groups batches. Run it, then Submit from any number of goroutines.
type Committer struct {
	store   Store
	log     *zap.Logger
	queues  [shards]chan *Pending
	stopped chan struct{}

	points  prometheus.Counter
	batches *prometheus.CounterVec
	seconds prometheus.Histogram
}

// New returns a committer whose metrics go to reg.
func New(store Store, log *zap.Logger, reg prometheus.Registerer) (*Committer, error) {
	c := &Committer{
		store: store, log: log, stopped: make(chan struct{}),
		points: prometheus.NewCounter(prometheus.CounterOpts{Name: "trainyard_ingest_points_total",
			Help: "Metric points made durable, repeats included."}),
		batches: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trainyard_ingest_batches_total",
			Help: "Ingest batches by result."}, []string{"result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "trainyard_ingest_commit_seconds",
			Help: "Time of one group commit.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}),
	}
	for i := range c.queues {
		c.queues[i] = make(chan *Pending, queueLength)
	}
	for _, m := range []prometheus.Collector{c.points, c.batches, c.seconds} {
		if err := reg.Register(m); err != nil {
			return nil, fmt.Errorf("register ingest metrics: %w", err)
		}
	}
	return c, nil
}

// Submit queues a batch. It waits while the queue is full, which is the back-pressure the
// stream passes on to its sender.
func (c *Committer) Submit(ctx context.Context, lane *Lane, b catalog.Batch) (*Pending, error) {
	p := &Pending{batch: b, lane: lane, done: make(chan struct{})}
	h := fnv.New32a()
	_, _ = h.Write([]byte(b.Key.RunID))
	select {
	case c.queues[h.Sum32()%shards] <- p:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.stopped:
		return nil, ErrStopped
	}
}

// Run commits until ctx ends. What is queued then fails: it is not acknowledged, so its
// sender still has it.
func (c *Committer) Run(ctx context.Context) error {
	finished := make(chan struct{}, shards)
	for i := range c.queues {
		go func() {
			defer func() { finished <- struct{}{} }()
			c.shard(ctx, c.queues[i])
		}()
	}
	<-ctx.Done()
	close(c.stopped)
	for range c.queues {
		<-finished
	}
	return nil
}

func (c *Committer) shard(ctx context.Context, queue chan *Pending) {
	for {
		select {
		case <-ctx.Done():
			drain(queue)
			return
		case first := <-queue:
			c.commit(ctx, gather(first, queue))
		}
	}
}

// drain fails what is queued. A Submit that raced with the stop may add one more batch
// afterwards; its stream ends with the server and nobody waits for it.
func drain(queue chan *Pending) {
	for {
		select {
		case p := <-queue:
			p.finish(catalog.BatchResult{}, ErrStopped)
		default:
			return
		}
	}
}

func gather(first *Pending, queue chan *Pending) []*Pending {
	group := []*Pending{first}
	points := len(first.batch.Points)
	for len(group) < groupBatches && points < groupPoints {
		select {
		case p := <-queue:
			group = append(group, p)
			points += len(p.batch.Points)
		default:
			return group
		}
	}
	return group
}

func (c *Committer) commit(ctx context.Context, group []*Pending) {
	live := group[:0]
	for _, p := range group {
		if p.lane.broken.Load() {
			p.finish(catalog.BatchResult{}, ErrBroken)
			continue
		}
		live = append(live, p)
	}
	if len(live) == 0 {
		return
	}
	batches := make([]catalog.Batch, len(live))
	points := 0
	for i, p := range live {
		batches[i] = p.batch
		points += len(p.batch.Points)
	}
	limited, cancel := context.WithTimeout(ctx, commitLimit)
	defer cancel()
	start := time.Now()
	results, err := c.store.ApplyBatches(limited, batches, start)
	c.seconds.Observe(time.Since(start).Seconds())
	if err != nil {
		c.batches.WithLabelValues("failed").Add(float64(len(live)))
		c.log.Warn("ingest group failed", zap.Int("batches", len(live)), zap.Int("points", points), zap.Error(err))
		for _, p := range live {
			p.finish(catalog.BatchResult{}, err)
		}
		return
	}
	c.points.Add(float64(points))
	for i, p := range live {
		c.note(p, results[i])
		p.finish(results[i], nil)
	}
}

func (c *Committer) note(p *Pending, r catalog.BatchResult) {
	k := p.batch.Key
	switch {
	case r.Refusal != nil && r.Refusal.Problem == catalog.ProblemFenced:
		c.batches.WithLabelValues("fenced").Inc()
	case r.Refusal != nil:
		c.batches.WithLabelValues("refused").Inc()
		c.log.Warn("ingest batch refused", zap.String("job_id", k.RunID), zap.Int32("attempt", k.Attempt),
			zap.Uint64("fence", k.Fence), zap.Uint64("sequence", k.Sequence), zap.Error(r.Refusal), zap.NamedError("cause", r.Refusal.Cause))
	case r.Duplicate:
		c.batches.WithLabelValues("duplicate").Inc()
	default:
		c.batches.WithLabelValues("accepted").Inc()
	}
	if r.RegisteredVersion != 0 {
		c.log.Info("model version registered", zap.String("job_id", k.RunID), zap.String("model", r.RegisteredModel),
			zap.Int32("version", r.RegisteredVersion))
	}
	if r.ModelSkipped != "" {
		c.log.Warn("no model version registered", zap.String("job_id", k.RunID), zap.String("model", r.RegisteredModel),
			zap.String("why", r.ModelSkipped))
	}
}
