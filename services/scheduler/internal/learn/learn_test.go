package learn_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/learn"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestReservations(t *testing.T) {
	t.Parallel()
	for bytes, want := range map[int64]int64{0: 0, 1: 64 << 20, 700 << 20: 800 << 20, 7 << 30: 8 << 30} {
		if got := (learn.Peak{Bytes: bytes}).Reservation(); got != want {
			t.Errorf("%d bytes: reserve %d, want %d", bytes, got, want)
		}
	}
}

// A reservation covers the newest run and, for a while, the highest before it; it
// falls towards what is used in the end.
func TestWhatWasSeenIsCovered(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := learn.Peak{}
		for range rapid.IntRange(1, 20).Draw(t, "runs") {
			was := p.Bytes
			bytes := rapid.Int64Range(1, 80<<30).Draw(t, "bytes")
			p = p.Saw(bytes, t0)
			if r := p.Reservation(); r < bytes || r < was*7/8 {
				t.Fatalf("reserves %d after %d and %d", r, was, bytes)
			}
		}
		for range 200 {
			p = p.Saw(1<<30, t0)
		}
		if r := p.Reservation(); r > 2<<30 {
			t.Fatalf("still reserves %d for 1 GiB", r)
		}
	})
}

func TestDurationsAreSmoothed(t *testing.T) {
	t.Parallel()
	p := learn.Peak{}.Ran(8 * time.Minute).Ran(16 * time.Minute)
	if p.Took != 9*time.Minute {
		t.Errorf("took %s", p.Took)
	}
}
