package postgres

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/zap"
)

// Watcher turns NOTIFY into wake-ups. A wake-up says "look", never what changed: lost and
// doubled ones are harmless, and after a lost connection everybody is woken once.
type Watcher struct {
	pool *pgxpool.Pool
	log  *zap.Logger

	mu   sync.Mutex
	subs map[string]map[chan struct{}]struct{}
	// generation grows with every wake-up, after the change that caused it has committed.
	generation uint64
}

// NewWatcher returns a watcher; its Run must be running for wake-ups to arrive.
func NewWatcher(pool *pgxpool.Pool, log *zap.Logger) *Watcher {
	return &Watcher{pool: pool, log: log, subs: map[string]map[chan struct{}]struct{}{}}
}

// Subscribe returns a channel that gets a token after each change of the model, and its
// cancel. The channel holds one token: a slow reader misses none, it just looks once for many.
func (w *Watcher) Subscribe(model string) (<-chan struct{}, func()) {
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.subs[model] == nil {
		w.subs[model] = map[chan struct{}]struct{}{}
	}
	w.subs[model][ch] = struct{}{}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.subs[model], ch)
		if len(w.subs[model]) == 0 {
			delete(w.subs, model)
		}
	}
}

// Generation is the number of wake-ups so far: a read that begins now sees every change
// that they stand for.
func (w *Watcher) Generation() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.generation
}

func (w *Watcher) wake(model string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.generation++
	for name, chans := range w.subs {
		if model != "" && name != model {
			continue
		}
		for ch := range chans {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}

// Run listens until ctx ends. A broken connection is made anew; what was missed meanwhile
// is covered by waking everybody.
func (w *Watcher) Run(ctx context.Context) error {
	for {
		err := w.listen(ctx)
		if ctx.Err() != nil {
			return nil
		}
		w.log.Warn("model notifications interrupted, reconnecting", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (w *Watcher) listen(ctx context.Context) error {
	conn, err := w.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	// The connection is taken out of the pool: a LISTEN must not leak into other work.
	raw := conn.Hijack()
	defer func() { _ = raw.Close(context.WithoutCancel(ctx)) }()
	if _, err := raw.Exec(ctx, `LISTEN `+ModelChannel); err != nil {
		return err
	}
	w.wake("")
	for {
		n, err := raw.WaitForNotification(ctx)
		if err != nil {
			return err
		}
		w.wake(n.Payload)
	}
}
