package spool_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk/crashdisk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
)

var tiny = spool.Options{SegmentBytes: 200, Retry: time.Millisecond}

func payload(i uint64) []byte { return []byte(fmt.Sprintf("record-%d", i)) }

func open(t testing.TB, d *crashdisk.Disk, opts spool.Options) *spool.Spool {
	t.Helper()
	s, err := spool.Open(d, "/spool", opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func drain(t testing.TB, s *spool.Spool, after uint64, total uint64) []spool.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var all []spool.Record
	for after < total && s.Stats().Records > 0 {
		got, err := s.Next(ctx, after, 64)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, got...)
		after = got[len(got)-1].Sequence
	}
	return all
}

// The spool behaves like a list: any mix of appends, acknowledgements, reads
// and restarts gives every unacknowledged record once, in order.
func TestModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		d := crashdisk.New()
		s := open(t, d, tiny)
		defer func() {
			if err := s.Close(); err != nil {
				rt.Fatal(err)
			}
		}()
		var model []uint64
		var source, acked uint64
		ctx := context.Background()
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				source++
				seq, err := s.Append(ctx, source, spool.Batch, payload(source))
				if err != nil || seq != uint64(len(model))+1 {
					rt.Fatalf("append: sequence %d after %d, %v", seq, len(model), err)
				}
				model = append(model, source)
			},
			"flush": func(rt *rapid.T) {
				if err := s.Flush(ctx); err != nil {
					rt.Fatal(err)
				}
				if s.DurableSource() != source {
					rt.Fatalf("flushed to source %d, want %d", s.DurableSource(), source)
				}
			},
			"acknowledge": func(rt *rapid.T) {
				if err := s.Flush(ctx); err != nil {
					rt.Fatal(err)
				}
				acked = rapid.Uint64Range(acked, uint64(len(model))).Draw(rt, "acked")
				s.Acked(acked)
			},
			"restart": func(rt *rapid.T) {
				if err := s.Close(); err != nil {
					rt.Fatal(err)
				}
				s = open(t, d, tiny)
				if s.Source() != source || len(s.Stats().Damage) > 0 {
					rt.Fatalf("restarted at source %d (want %d), damage %v", s.Source(), source, s.Stats().Damage)
				}
			},
			"": func(rt *rapid.T) {
				if err := s.Flush(ctx); err != nil {
					rt.Fatal(err)
				}
				for i, r := range drain(t, s, acked, uint64(len(model))) {
					want := acked + uint64(i) + 1
					if r.Sequence != want || r.Source != model[want-1] || !bytes.Equal(r.Payload, payload(r.Source)) {
						rt.Fatalf("read %+v, want sequence %d", r, want)
					}
				}
			},
		})
	})
}

// scenario appends, waits for durability and acknowledges, recording after each
// disk operation what the trainer has been told.
func scenario(t *testing.T, d *crashdisk.Disk, told, acked *atomic.Uint64) {
	t.Helper()
	ctx := context.Background()
	s := open(t, d, tiny)
	for i := uint64(1); i <= 24; i++ {
		if _, err := s.Append(ctx, i, spool.Batch, payload(i)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 {
			durable, err := s.WaitDurable(ctx, i-1)
			if err != nil {
				t.Fatal(err)
			}
			told.Store(durable)
		}
		if i%8 == 0 {
			acked.Store(i - 4)
			s.Acked(i - 4)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// sweep cuts the power at every disk operation, several times each, and
// returns how many states lost an acknowledged record or reported damage.
func sweep(t *testing.T, seeds int, lie func(name, path string) bool) (points, lost int) {
	t.Helper()
	var told, acked atomic.Uint64
	var mu sync.Mutex // the committer and the acknowledger both write
	d := crashdisk.New()
	d.Lie = lie
	d.Before = func(op int, _, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		for i, survival := range []float64{0, 0.3, 0.5, 0.9, 1} {
			for seed := range seeds {
				points++
				crashed := d.Crash(rand.New(rand.NewSource(int64(op*1000+i*100+seed))), survival)
				s, err := spool.Open(crashed, "/spool", tiny)
				if err != nil {
					t.Fatal(err)
				}
				ok := s.DurableSource() >= told.Load() && len(s.Stats().Damage) == 0
				if ok && s.DurableSource() > acked.Load() {
					records := drain(t, s, acked.Load(), s.DurableSource())
					ok = len(records) > 0 && records[0].Sequence == acked.Load()+1
					for _, r := range records {
						ok = ok && bytes.Equal(r.Payload, payload(r.Sequence)) && r.Source == r.Sequence
					}
				}
				if !ok {
					lost++
				}
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
		}
		return nil
	}
	scenario(t, d, &told, &acked)
	return points, lost
}

// Power loss at any point loses nothing that the trainer was told is durable.
func TestPowerLoss(t *testing.T) {
	t.Parallel()
	points, lost := sweep(t, 20, nil)
	if points < 3000 || lost != 0 {
		t.Fatalf("%d of %d crash points lost acknowledged records", lost, points)
	}
}

// Each fsync is needed: without it the sweep finds a loss.
func TestOmittedSyncIsCaught(t *testing.T) {
	t.Parallel()
	for _, omitted := range []string{"sync", "syncdir"} {
		_, lost := sweep(t, 20, func(name, _ string) bool { return name == omitted })
		if lost == 0 {
			t.Errorf("omitting every %s went unnoticed", omitted)
		}
	}
}

// A full disk withholds durability and recovers alone, with nothing lost.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	for failAt := 3; failAt < 12; failAt++ {
		d := crashdisk.New()
		var full atomic.Int32
		full.Store(4)
		d.Before = func(op int, name, _ string) error {
			if op >= failAt && name != "remove" && full.Add(-1) >= 0 {
				return crashdisk.ErrFull
			}
			return nil
		}
		s, err := spool.Open(d, "/spool", tiny)
		if errors.Is(err, crashdisk.ErrFull) {
			continue // the header itself did not fit: Open said so
		}
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); i <= 20; i++ {
			if _, err := s.Append(context.Background(), i, spool.Batch, payload(i)); err != nil {
				t.Fatal(err)
			}
			if i%5 == 0 {
				if err := s.Flush(context.Background()); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		again := open(t, d.Crash(rand.New(rand.NewSource(1)), 0), tiny)
		if got := drain(t, again, 0, 20); len(got) != 20 || len(again.Stats().Damage) > 0 {
			t.Fatalf("full at %d: %d records, damage %v", failAt, len(got), again.Stats().Damage)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// A flipped bit before other records is damage, not a torn tail.
func TestFlippedBitIsReported(t *testing.T) {
	t.Parallel()
	d := crashdisk.New()
	s := open(t, d, spool.Options{})
	for i := uint64(1); i <= 3; i++ {
		if _, err := s.Append(context.Background(), i, spool.Batch, payload(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("/spool", "000000000001.seg")
	raw, err := d.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := len(raw) - len(payload(3)) - 25 // the last record alone may look torn
	for offset := range last {
		d.Corrupt(path, offset, 0x40)
		again := open(t, d.Crash(rand.New(rand.NewSource(1)), 0), spool.Options{})
		if len(again.Stats().Damage) == 0 {
			t.Fatalf("a flip at byte %d went unnoticed", offset)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
		d.Corrupt(path, offset, 0x40)
	}
}

// A full spool makes the writer wait, and only until there is room.
func TestBackPressure(t *testing.T) {
	t.Parallel()
	s := open(t, crashdisk.New(), spool.Options{MaxBytes: 300, SegmentBytes: 100})
	ctx := context.Background()
	var appended uint64
	for {
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		_, err := s.Append(short, appended+1, spool.Batch, make([]byte, 50))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		appended++
	}
	if err := s.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if appended == 0 || s.Stats().Bytes > 300+100 {
		t.Fatalf("%d records, %d bytes under a bound of 300", appended, s.Stats().Bytes)
	}
	s.Acked(appended)
	if _, err := s.Append(ctx, appended+1, spool.Batch, make([]byte, 50)); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The age of what the registry lacks is that of the oldest record, not of the
// last acknowledgement.
func TestOldest(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := open(t, crashdisk.New(), spool.Options{})
		begun := time.Now()
		for i := uint64(1); i <= 100; i++ {
			if _, err := s.Append(t.Context(), i, spool.Batch, nil); err != nil {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Second)
		}
		for _, acked := range []uint64{1, 40, 99} {
			s.Acked(acked)
			if want := begun.Add(time.Duration(acked) * 10 * time.Second); !s.Stats().Oldest.Equal(want) {
				t.Fatalf("after %d: oldest %v, want %v", acked, s.Stats().Oldest, want)
			}
		}
		if s.Acked(100); !s.Stats().Oldest.IsZero() {
			t.Fatalf("nothing is missing, oldest %v", s.Stats().Oldest)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
