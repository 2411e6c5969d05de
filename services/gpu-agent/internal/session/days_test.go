package session_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
)

// soak is what some virtual days left behind.
type soak struct {
	points, gaps, restarts, churned int
	// spool is the most that lay on the host while the registry was away.
	spool int64
	// objects and goroutines at a quiet instant of each day.
	objects    []uint64
	goroutines []int
}

// live lets trainers log a point each every, and replaces one of them each hour;
// the agent restarts each six hours, the registry is away for an hour a day.
func live(t *testing.T, hours, trainers int, every time.Duration) (result soak) {
	t.Helper()
	dir := quickDir(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, trainers)
		w.every = every
		w.start()
		defer func() { w.stop() }()
		for hour := 1; hour <= hours; hour++ {
			w.settle()
			w.mu.Lock()
			w.away = hour%24 == 5
			for job, a := range w.desired { // any one
				delete(w.desired, job)
				next := uuid.NewString()
				w.desired[next] = a // for its lane
				w.assign(next)
				break
			}
			w.mu.Unlock()
			result.churned++
			time.Sleep(59 * time.Minute)
			result.spool = max(result.spool, w.host.Snapshot().Spool.Bytes)
			if hour%6 == 0 {
				w.stop()
				w.start()
				result.restarts++
			}
			time.Sleep(time.Minute)
			if hour%24 == 0 {
				w.settle()
				w.prune()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				runtime.GC()
				var stats runtime.MemStats
				runtime.ReadMemStats(&stats)
				result.objects = append(result.objects, stats.HeapObjects)
				result.goroutines = append(result.goroutines, runtime.NumGoroutine())
			}
		}
		w.mu.Lock()
		w.desired = nil
		w.bump()
		w.mu.Unlock()
		for len(w.host.Leases()) > 0 || w.host.Snapshot().Spool.Records > 0 {
			time.Sleep(time.Second)
		}
		result.points, result.gaps = w.points, w.gaps
	})
	return result
}

// prune forgets what has ended, so that the test itself does not grow.
func (w *world) prune() {
	w.mu.Lock()
	defer w.mu.Unlock()
	live := map[uint64]bool{}
	for _, a := range w.desired {
		live[a.Fence] = true
	}
	for dir, p := range w.processes {
		if !live[p.fence] {
			delete(w.processes, dir)
		}
	}
	for fence := range w.ended {
		delete(w.ended, fence)
		delete(w.exits, fence)
		delete(w.given, fence)
		delete(w.stored, fence)
	}
}

// Some virtual hours with restarts, churn and an outage of the registry lose no point.
func TestHours(t *testing.T) {
	t.Parallel()
	got := live(t, 7, 3, time.Minute)
	if got.gaps != 0 || got.points < 3*7*50 || got.restarts != 1 || got.spool == 0 {
		t.Fatalf("%+v", got)
	}
}
