//go:build results

package spool_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

const (
	page    = "agent.md"
	streams = 20
)

// throughput appends batches of 100 points (3 kB) from all streams for a while and
// returns how many points a second became durable.
func throughput(t *testing.T, span time.Duration) float64 {
	t.Helper()
	payload := make([]byte, 100*30)
	var points [streams]int
	var wg sync.WaitGroup
	begun := time.Now()
	for stream := range streams {
		s, err := spool.Open(disk.OS(), t.TempDir(), spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for i := uint64(1); time.Since(begun) < span; i++ {
				sequence, err := s.Append(context.Background(), i, spool.Batch, payload)
				if err != nil {
					t.Error(err)
					return
				}
				if i%256 == 0 { // a registry that keeps up
					if err := s.Flush(context.Background()); err != nil {
						t.Error(err)
					}
					points[stream] = int(i) * 100
					s.Acked(sequence)
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range points {
		total += n
	}
	return float64(total) / time.Since(begun).Seconds()
}

// eachSynced is what a spool without group commit does: write, sync, write, sync.
func eachSynced(t *testing.T, span time.Duration) float64 {
	t.Helper()
	payload := make([]byte, 100*30)
	var points [streams]int
	var wg sync.WaitGroup
	begun := time.Now()
	for stream := range streams {
		f, err := disk.OS().Create(filepath.Join(t.TempDir(), "log"))
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for time.Since(begun) < span {
				if _, err := f.Write(payload); err != nil {
					t.Error(err)
				}
				if err := f.Sync(); err != nil {
					t.Error(err)
				}
				points[stream] += 100
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range points {
		total += n
	}
	return float64(total) / time.Since(begun).Seconds()
}

// latencies is the time from each batch to its durable acknowledgement, with 10
// batches of 10 points a second from each stream.
func latencies(t *testing.T, span time.Duration) []float64 {
	t.Helper()
	payload := make([]byte, 10*30)
	var mu sync.Mutex
	var all []float64
	var wg sync.WaitGroup
	for stream := range streams {
		s, err := spool.Open(disk.OS(), t.TempDir(), spool.Options{})
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			time.Sleep(time.Duration(stream) * 5 * time.Millisecond)
			ticker := time.NewTicker(100 * time.Millisecond)
			defer ticker.Stop()
			for i := uint64(0); i < uint64(span/(100*time.Millisecond)); i++ {
				<-ticker.C
				begun := time.Now()
				if _, err := s.Append(context.Background(), i+1, spool.Batch, payload); err != nil {
					t.Error(err)
				}
				if _, err := s.WaitDurable(context.Background(), i); err != nil {
					t.Error(err)
				}
				mu.Lock()
				all = append(all, float64(time.Since(begun))/float64(time.Millisecond))
				mu.Unlock()
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all
}

// beside runs work while checkpoints of 256 MiB are written to the same disk, one
// after the other, and returns what work does and how fast they were.
func beside(t *testing.T, work func() []float64, write func(data []byte) error) (all []float64, rate float64) {
	t.Helper()
	stop, done := make(chan struct{}), make(chan struct{})
	data := make([]byte, 256<<20)
	written, begun := 0, time.Now()
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := write(data); err != nil {
				t.Error(err)
				return
			}
			written += len(data)
		}
	}()
	all = work()
	close(stop)
	<-done
	return all, float64(written) / 1e6 / time.Since(begun).Seconds()
}

// The spool's rate and its latency, alone and beside checkpoints.
func TestResultsSpool(t *testing.T) {
	span, runs := 5*time.Second, 3
	if testing.Short() {
		span, runs = 500*time.Millisecond, 1
	}
	before := runtime.GOMAXPROCS(1)
	var ours, naive []float64
	for range runs {
		ours, naive = append(ours, throughput(t, span)), append(naive, eachSynced(t, span))
	}
	runtime.GOMAXPROCS(before)

	alone := latencies(t, 2*span)
	root := t.TempDir()
	bin, err := disk.OpenBin(filepath.Join(root, "bin"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := staging.Open(filepath.Join(root, "staging"), 1<<40, bin)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(make([]byte, 256<<20))
	eased, easedRate := beside(t, func() []float64 { return latencies(t, 2*span) }, func(data []byte) error {
		up, err := store.Begin(int64(len(data)))
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(data, 1<<20) {
			if _, err := up.Write(chunk); err != nil {
				return err
			}
		}
		if err := up.Commit(sum); err != nil {
			return err
		}
		store.Claim()
		return nil
	})
	if err := errors.Join(store.Close(), bin.Close()); err != nil {
		t.Error(err)
	}
	plain := filepath.Join(t.TempDir(), "plain")
	heaped, heapedRate := beside(t, func() []float64 { return latencies(t, 2*span) }, func(data []byte) error {
		f, err := os.Create(plain)
		if err != nil {
			return err
		}
		for chunk := range slices.Chunk(data, 1<<20) {
			if _, err := f.Write(chunk); err != nil {
				return err
			}
		}
		if err := f.Sync(); err != nil {
			return err
		}
		return f.Close()
	})
	at := func(all []float64, q float64) benchtable.Sample {
		return benchtable.Of("ms", benchtable.Quantile(all, q))
	}
	benchtable.Section{
		Page: page, Title: "The spool", Command: "make bench ONLY=services/gpu-agent RESULTS=TestResultsSpool",
		Intro: "20 streams, each with a spool of its own on the host's disk. The rate is of batches of 100 points (3 kB) as fast as they become durable, on one processor; the latency of 10 batches of 10 points a second from each stream. Beside checkpoints means that files of 256 MiB are written and synced to the same disk all the while, once as staging does it (around the page cache, removed bit by bit) and once as a plain program does (all at the final sync).",
		Rows: []benchtable.Row{
			{What: "acknowledged durable, one processor", Asked: ">= 300k points/s", Ours: benchtable.Of("points/s", ours...), Peer: benchtable.Of("points/s", naive...), PeerName: "a sync for each batch"},
			{What: "ack p50, alone", Ours: at(alone, 0.5)},
			{What: "ack p99, alone", Asked: "<= 20 ms", Ours: at(alone, 0.99)},
			{What: "ack p99, beside checkpoints", Asked: "<= 20 ms", Ours: at(eased, 0.99), Peer: at(heaped, 0.99), PeerName: "plain checkpoint writes", Note: fmt.Sprintf("checkpoints at %.0f MB/s (hashed), plain at %.0f", easedRate, heapedRate)},
		},
	}.Write(t)
}

// Power cut at ten thousand points and more.
func TestCampaignPowerLoss(t *testing.T) {
	seeds := 80
	if testing.Short() {
		seeds = 5
	}
	points, lost := sweep(t, seeds, nil)
	_, noSync := sweep(t, 20, func(name, _ string) bool { return name == "sync" })
	_, noDirSync := sweep(t, 20, func(name, _ string) bool { return name == "syncdir" })
	if lost > 0 || noSync == 0 || noDirSync == 0 {
		t.Errorf("%d lost; mutants %d, %d", lost, noSync, noDirSync)
	}
	benchtable.Section{
		Page: page, Title: "Power loss: the spool", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignPowerLoss",
		Intro: "A disk in memory loses what was never synced, at each operation of a life of appends, acknowledgements and removals, with several shares of the unsynced surviving.",
		Rows: []benchtable.Row{
			{What: "crash points", Asked: ">= 10,000", Ours: benchtable.Of("", float64(points))},
			{What: "states that lost or changed an acknowledged record", Asked: "0", Ours: benchtable.Of("", float64(lost))},
			{What: "the same without syncs of bytes", Asked: "caught", Ours: benchtable.Of("", float64(noSync))},
			{What: "the same without syncs of names", Asked: "caught", Ours: benchtable.Of("", float64(noDirSync))},
		},
	}.Write(t)
}
