package spool_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
)

// BenchmarkThroughput appends batches of 100 points (about 3 kB) from 20 streams
// as fast as the disk makes them durable.
func BenchmarkThroughput(b *testing.B) {
	const streams, points = 20, 100
	payload := make([]byte, points*30)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range streams {
		s, err := spool.Open(disk.OS(), b.TempDir(), spool.Options{})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			for i := range b.N {
				sequence, err := s.Append(context.Background(), uint64(i)+1, spool.Batch, payload)
				if err != nil {
					b.Error(err)
					return
				}
				if i%256 == 255 { // a registry that keeps up
					if err := s.Flush(context.Background()); err != nil {
						b.Error(err)
					}
					s.Acked(sequence)
				}
			}
			if err := s.Flush(context.Background()); err != nil {
				b.Error(err)
			}
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)*streams*points/b.Elapsed().Seconds(), "points/s")
}

// BenchmarkAckLatency is the time from a batch to its durable ack, with 20
// streams of 10 batches of 10 points a second each.
func BenchmarkAckLatency(b *testing.B) {
	const streams = 20
	payload := make([]byte, 10*30)
	var mu sync.Mutex
	var all []time.Duration
	var wg sync.WaitGroup
	for stream := range streams {
		s, err := spool.Open(disk.OS(), b.TempDir(), spool.Options{})
		if err != nil {
			b.Fatal(err)
		}
		wg.Go(func() {
			time.Sleep(time.Duration(stream) * 5 * time.Millisecond)
			ticker := time.NewTicker(100 * time.Millisecond)
			defer ticker.Stop()
			for i := range max(b.N, 20) {
				<-ticker.C
				begun := time.Now()
				if _, err := s.Append(context.Background(), uint64(i)+1, spool.Batch, payload); err != nil {
					b.Error(err)
				}
				if _, err := s.WaitDurable(context.Background(), uint64(i)); err != nil {
					b.Error(err)
				}
				mu.Lock()
				all = append(all, time.Since(begun))
				mu.Unlock()
			}
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}
