package session_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"
)

// partitions is what a series of them showed.
type partitions struct {
	count, survived int
	// found is how long the longest silence went unnoticed, overlap the longest
	// time for which a device had two holders.
	found, overlap time.Duration
}

// partition cuts the network between agent and scheduler again and again, for a
// second to twenty minutes, many times around the lease's end.
func partition(t *testing.T, n int) (result partitions) {
	t.Helper()
	dir := quickDir(t)
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, dir, 1)
		w.start()
		defer func() { w.stop() }()
		rng := rand.New(rand.NewPCG(3, 4))
		span := func(from, to time.Duration) time.Duration { return from + time.Duration(rng.Int64N(int64(to-from))) }
		for i := range n {
			w.settle()
			time.Sleep(span(0, 10*time.Second))
			length := span(time.Second, 14*time.Second)
			switch i % 4 {
			case 1, 2:
				length = span(14*time.Second, 25*time.Second)
			case 3:
				length = span(25*time.Second, 20*time.Minute)
			}
			w.mu.Lock()
			w.failed = time.Time{}
			before := w.fence
			w.mu.Unlock()
			begun := time.Now()
			w.cable.cut()
			time.Sleep(length)
			w.cable.heal()
			w.settle()
			w.mu.Lock()
			found := w.failed.Sub(begun)
			if w.failed.IsZero() {
				found = length // it was over before anyone had to notice
			}
			result.found = max(result.found, found)
			if w.fence == before {
				result.survived++
			}
			w.mu.Unlock()
			result.count++
		}
		w.mu.Lock()
		for fence, at := range w.given {
			end, ok := w.ended[fence]
			if !ok {
				t.Errorf("fence %d was given away and its trainer lives", fence)
			}
			result.overlap = max(result.overlap, end.Sub(at))
		}
		if len(w.given) == 0 {
			t.Error("no partition was long enough for anything")
		}
		for _, p := range w.processes {
			_ = p.Kill() // it returns nil
		}
		w.desired = nil
		w.bump()
		w.mu.Unlock()
		time.Sleep(time.Minute)
	})
	return result
}

// A partition is found within 15 s, and in none has a device two holders: the
// agent's lease ends, and with it the trainer, before the scheduler gives it away.
func TestPartitions(t *testing.T) {
	t.Parallel()
	got := partition(t, 40)
	if got.found > 15*time.Second || got.overlap > 0 || got.survived == 0 {
		t.Fatalf("%+v", got)
	}
}
