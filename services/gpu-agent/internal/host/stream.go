package host

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
)

// Order is one word to a trainer; exactly one member is set.
type Order struct {
	Stop      *StopOrder
	Committed *Committed
	Rejected  *Rejected
}

// StopOrder asks the trainer to save and exit within Grace.
type StopOrder struct {
	Reason lease.StopReason
	Grace  time.Duration
}

// Committed says that a checkpoint exists.
type Committed struct {
	Step int64
	ID   string
}

// Rejected says that a checkpoint never will.
type Rejected struct {
	Step     int64
	Problems []string
}

// Stream is the one open Train stream of an attempt.
type Stream struct {
	attempt *Attempt
	over    chan struct{} // closed when another stream took over
	done    chan struct{} // closed by Detach
}

// Attach makes the caller the attempt's stream. An older one is told to end and
// waited for: two readers of the same sequence would both be wrong.
func (a *Attempt) Attach(ctx context.Context) (*Stream, error) {
	s := &Stream{attempt: a, over: make(chan struct{}), done: make(chan struct{})}
	a.mu.Lock()
	older := a.stream
	a.stream = s
	stop := a.stop
	var known *Committed
	if p := a.progress; p != nil && p.CheckpointStep > 0 {
		known = &Committed{Step: p.CheckpointStep, ID: p.CheckpointID}
	}
	a.mu.Unlock()
	if older != nil {
		close(older.over)
		select {
		case <-older.done:
		case <-ctx.Done():
			s.Detach()
			return nil, ctx.Err()
		}
	}
	// What was said to a stream that broke, or by an agent that died, may not have
	// been heard: the newest checkpoint and a stop are said again.
	if known != nil {
		a.order(Order{Committed: known})
	}
	if stop != nil {
		a.order(Order{Stop: &StopOrder{Reason: stop.Reason, Grace: time.Until(stop.KillAt)}})
	}
	return s, nil
}

// Over is closed when the stream must end.
func (s *Stream) Over() <-chan struct{} { return s.over }

// Detach ends the stream.
func (s *Stream) Detach() {
	a := s.attempt
	a.mu.Lock()
	if a.stream == s {
		a.stream = nil
	}
	a.mu.Unlock()
	close(s.done)
}

// awaitStream waits, after the process is gone, until what it wrote to its
// socket is read. The end of the connection follows the process's end at once;
// the limit is for a handler that waits for a full disk.
func (a *Attempt) awaitStream(ctx context.Context, limit time.Duration) {
	a.mu.Lock()
	s := a.stream
	a.mu.Unlock()
	if s == nil {
		return
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-s.done:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// maxOrders bounds what waits for a trainer that does not listen.
const maxOrders = 256

func (a *Attempt) order(o Order) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.orders) >= maxOrders {
		// News of checkpoints can be missed; a stop cannot.
		if at := slices.IndexFunc(a.orders, func(o Order) bool { return o.Stop == nil }); at >= 0 {
			a.orders = slices.Delete(a.orders, at, at+1)
		}
	}
	a.orders = append(a.orders, o)
	close(a.ordered)
	a.ordered = make(chan struct{})
}

// NextOrder waits for the next order.
func (a *Attempt) NextOrder(ctx context.Context) (Order, error) {
	for {
		a.mu.Lock()
		if len(a.orders) > 0 {
			o := a.orders[0]
			a.orders = a.orders[1:]
			a.mu.Unlock()
			return o, nil
		}
		ordered := a.ordered
		a.mu.Unlock()
		select {
		case <-ordered:
		case <-ctx.Done():
			return Order{}, ctx.Err()
		}
	}
}

// Restored returns the checkpoint that the attempt starts from, or nil.
func (a *Attempt) Restored() *lease.Restored {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restored
}

// WarmStart returns another job's checkpoint that the attempt begins with, or nil.
func (a *Attempt) WarmStart() *lease.Restored {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.restored != nil {
		return nil
	}
	return a.warm
}

// parent is the checkpoint that the attempt's own descend from, or nil.
func (a *Attempt) parent() *lease.Restored {
	if restored := a.Restored(); restored != nil {
		return restored
	}
	return a.WarmStart()
}

// WorkDir returns the trainer's private directory.
func (a *Attempt) WorkDir() string { return filepath.Join(a.dir, "work") }

// Appended returns the highest sequence taken from the trainer, Durable the
// highest that is on disk.
func (a *Attempt) Appended() uint64 { return a.spool.Source() }

// Durable returns the highest sequence that would survive power loss.
func (a *Attempt) Durable() uint64 { return a.spool.DurableSource() }

// Damaged says that acknowledged frames were lost on this host, so that the
// trainer cannot know where to go on.
func (a *Attempt) Damaged() bool { return len(a.spool.Stats().Damage) > 0 }

// WaitDurable waits until more than after is on disk.
func (a *Attempt) WaitDurable(ctx context.Context, after uint64) (uint64, error) {
	return a.spool.WaitDurable(ctx, after)
}

// Batch spools an encoded batch for the registry under the trainer's sequence.
// Of a gang only the first member's batches go there: sequences are the run's.
func (a *Attempt) Batch(ctx context.Context, sequence uint64, payload []byte) error {
	if a.lease.Member() > 0 {
		return a.Mark(ctx, sequence)
	}
	_, err := a.spool.Append(ctx, sequence, spool.Batch, payload)
	return err
}

// Mark makes a sequence durable whose frame had its effect elsewhere.
func (a *Attempt) Mark(ctx context.Context, sequence uint64) error {
	_, err := a.spool.Append(ctx, sequence, spool.Mark, nil)
	return err
}

// Progress takes a progress report.
func (a *Attempt) Progress(p lease.Progress) {
	a.changeProgress(false, func(current *lease.Progress) {
		p.PeakMemory = max(p.PeakMemory, current.PeakMemory)
		p.CheckpointStep, p.CheckpointID = current.CheckpointStep, current.CheckpointID
		*current = p
	})
}

// DataOutage notes that the trainer lost or regained its data.
func (a *Attempt) DataOutage(active bool) {
	a.mu.Lock()
	switch {
	case !active:
		a.dataOutage = time.Time{}
	case a.dataOutage.IsZero():
		a.dataOutage = time.Now()
	}
	a.mu.Unlock()
	a.host.notifyNow()
}

// Submit takes a checkpoint or artifact over; it is durable on return.
func (a *Attempt) Submit(item upload.Item) error {
	if a.lease.Member() > 0 && item.Ready != nil {
		a.order(Order{Rejected: &Rejected{Step: item.Step, Problems: []string{"only the first member of a gang commits checkpoints"}}})
	}
	if a.lease.Member() > 0 {
		return nil
	}
	if parent := a.parent(); parent != nil {
		item.Parent = parent.ID
	}
	return a.pipe.Submit(item)
}

// OOM attributes and journals the trainer's own report.
func (a *Attempt) OOM(report lease.OOM) error {
	verdict := a.host.deps.Attribution.Attribute(a.Key, report)
	a.mu.Lock()
	if a.oom == nil {
		a.oom = &verdict
	}
	a.mu.Unlock()
	return a.host.deps.Journal.Update(func(s *journal.State) {
		if l := s.Lease(a.Key); l != nil && l.OOM == nil {
			l.OOM = &verdict
		}
	})
}

// Finish journals the trainer's last word.
func (a *Attempt) Finish(f lease.Finished) error {
	a.mu.Lock()
	a.finished = &f
	a.mu.Unlock()
	return a.host.deps.Journal.Update(func(s *journal.State) {
		if l := s.Lease(a.Key); l != nil {
			l.Finished = &f
		}
	})
}

// Gap counts a break in the trainer's sequence.
func (a *Attempt) Gap() { a.host.deps.Counters.SequenceGap() }

// Receive begins an upload into the attempt's staging area.
func (a *Attempt) Receive(size int64) (*staging.Upload, error) { return a.stage.Begin(size) }

// uploaded takes a final result of the pipeline.
func (a *Attempt) uploaded(r upload.Result) {
	log := a.host.deps.Log
	switch {
	case len(r.Problems) > 0:
		a.host.deps.Counters.CheckpointRejected()
		log.Warn("an upload was rejected", append(a.fields(), zap.Int64("step", r.Item.Step), zap.Strings("problems", r.Problems))...)
		if r.Item.Ready != nil {
			a.order(Order{Rejected: &Rejected{Step: r.Item.Step, Problems: r.Problems}})
		}
	case r.Item.Ready != nil:
		var bytes int64
		for _, f := range r.Item.Files {
			bytes += f.Size
		}
		a.host.deps.Counters.CheckpointCommitted(bytes, r.Sent, time.Since(r.Item.Submitted))
		log.Info("checkpoint committed", append(a.fields(), zap.Int64("step", r.Item.Step), zap.String("checkpoint_id", r.ID),
			zap.Int64("bytes", bytes), zap.Int64("bytes_sent", r.Sent))...)
		a.changeProgress(true, func(p *lease.Progress) {
			if r.Item.Resumable && r.Item.Step >= p.CheckpointStep {
				p.CheckpointStep, p.CheckpointID = r.Item.Step, r.ID
			}
		})
		a.order(Order{Committed: &Committed{Step: r.Item.Step, ID: r.ID}})
	}
}

// keep puts a committed checkpoint into the host's own tier.
func (a *Attempt) keep(id string, item upload.Item, path func([32]byte) string) error {
	if !item.Resumable {
		return nil
	}
	if err := a.host.deps.Tier.Keep(a.JobID, id, item.Step, item.Files, path); err != nil {
		return fmt.Errorf("the host's checkpoint tier: %w", err)
	}
	return nil
}
