package postgres

import (
	"context"
	"testing"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func TestWatcherWakesAfterEachChangeAndAfterALostConnection(t *testing.T) {
	f := setup(t)
	f.family("m", 2)
	w := NewWatcher(f.store.pool, zap.NewNop())
	wake, unsubscribe := w.Subscribe("m")
	quiet, quietEnd := w.Subscribe("other")
	ctx, cancel := context.WithCancel(f.ctx)
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	<-wake // the first LISTEN wakes everybody once
	<-quiet
	_, _, err := f.promote(Promotion{Model: "m", Version: 1, To: catalog.StageProduction})
	f.must(err)
	<-wake
	_, err = f.store.pool.Exec(f.ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()`)
	f.must(err)
	<-wake // whatever was missed meanwhile
	<-quiet
	_, _, err = f.promote(Promotion{Model: "m", Version: 2, To: catalog.StageProduction})
	f.must(err)
	<-wake
	select {
	case <-quiet:
		t.Error("another model's change woke this subscriber")
	default:
	}
	unsubscribe()
	quietEnd()
	cancel()
	f.must(<-done)
	if len(w.subs) != 0 {
		t.Errorf("subscriptions left: %v", w.subs)
	}
}
