package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// durable starts a Postgres of its own with every durability setting on.
func durable(b *testing.B) *postgres.Store {
	b.Helper()
	bin, err := pgserver.Find(b.Context(), nil)
	if err != nil {
		b.Skipf("SKIPPED: %v", err)
	}
	check := func(err error) {
		b.Helper()
		if err != nil {
			b.Fatal(err)
		}
	}
	dir, err := os.MkdirTemp("", "trainyard-bench-*")
	check(err)
	b.Cleanup(func() { check(os.RemoveAll(dir)) })
	check(os.Chmod(dir, 0o755))
	server, err := pgserver.Start(context.WithoutCancel(b.Context()), pgserver.Options{Dir: filepath.Join(dir, "pg"), Durable: true, Binaries: bin})
	check(err)
	b.Cleanup(func() { check(server.Stop()) })
	check(server.EnsureDatabase(b.Context(), "mesh"))
	check(pg.Migrate(b.Context(), server.DSN("mesh"), postgres.Schema, postgres.Migrations))
	pool, err := pg.Open(b.Context(), pg.Config{DSN: server.DSN("mesh"), Schema: postgres.Schema, MaxConns: 8}, nil)
	check(err)
	b.Cleanup(pool.Close)
	return postgres.New(pool)
}

// BenchmarkIngest is what a host's metrics cost: writers on one committer, Postgres durable.
// One operation is a batch of 200 points; rows/s and the 99th percentile of the
// acknowledgement are reported.
func BenchmarkIngest(b *testing.B) {
	for _, writers := range []int{1, 20, 40} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			store := durable(b)
			committer, err := ingest.New(store, zap.NewNop(), prometheus.NewRegistry())
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- committer.Run(ctx) }()
			defer func() {
				cancel()
				if err := <-done; err != nil {
					b.Error(err)
				}
			}()
			const size = 200
			each := (b.N + writers - 1) / writers
			took := make([][]time.Duration, writers)
			var wg sync.WaitGroup
			b.ResetTimer()
			for w := range writers {
				wg.Go(func() {
					job, lane := uuid.NewString(), &ingest.Lane{}
					for i := range each + 1 {
						batch := catalog.Batch{Key: catalog.BatchKey{RunID: job, Attempt: 1, Fence: 1, Sequence: uint64(i + 1)}}
						if i == 0 {
							batch.Opened = &catalog.RunOpened{Experiment: "bench", DisplayName: "bench"}
						} else {
							for p := range size {
								batch.Points = append(batch.Points, catalog.MetricPoint{Key: fmt.Sprintf("metric/%d", p%10),
									Step: int64(i*size + p), Time: time.UnixMilli(int64(1_700_000_000_000 + i*size + p)), Value: float64(p)})
							}
						}
						start := time.Now()
						pending, err := committer.Submit(ctx, lane, batch)
						if err == nil {
							_, err = pending.Wait(ctx)
						}
						if err != nil {
							b.Error(err)
							return
						}
						took[w] = append(took[w], time.Since(start))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			all := slices.Concat(took...)
			slices.Sort(all)
			b.ReportMetric(float64(each*writers*size)/b.Elapsed().Seconds(), "rows/s")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
