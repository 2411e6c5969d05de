package registryclient_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/registryclient"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
)

// store is a registry that counts what it takes, and is away when it is told to be.
type store struct {
	registryv1.UnimplementedIngestServiceServer
	mu     sync.Mutex
	away   bool
	last   map[uint64]uint64 // sequence by fence
	points int
	wrong  int
}

func (s *store) Ingest(stream registryv1.IngestService_IngestServer) error {
	for {
		b, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		if s.away {
			s.mu.Unlock()
			return errors.New("away")
		}
		switch last := s.last[b.Fence]; {
		case b.Sequence == last+1:
			s.last[b.Fence] = b.Sequence
			s.points += len(b.GetMetrics().GetPoints())
		case b.Sequence > last+1:
			s.wrong++
		}
		s.mu.Unlock()
		if err := stream.Send(&registryv1.IngestResponse{Sequence: b.Sequence, Result: registryv1.IngestResponse_RESULT_ACCEPTED}); err != nil {
			return err
		}
	}
}

// outage is what an absence of the registry left, and how fast it was made good.
type outage struct {
	points, lost int
	bytes        int64
	took         time.Duration
}

// absent lets the registry be away while streams spool that many batches of 100
// points each, and then drains them over a real Ingest stream each.
func absent(t *testing.T, streams, batches int) (result outage) {
	t.Helper()
	s := &store{last: map[uint64]uint64{}, away: true}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	registryv1.RegisterIngestServiceServer(server, s)
	go func() { _ = server.Serve(listener) }() // it ends with Stop
	conn, err := grpc.NewClient("passthrough:///registry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	client := registryclient.New(conn, http.DefaultClient, "a", zap.NewNop())
	spools := make([]*spool.Spool, streams)
	for i := range spools {
		if spools[i], err = spool.Open(disk.OS(), t.TempDir(), spool.Options{}); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var drains, writers sync.WaitGroup
	for _, one := range spools {
		drains.Go(func() {
			for ctx.Err() == nil {
				// It fails while the registry is away, and in the end.
				_ = client.Drain(ctx, one, func(string, string) {})
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		})
	}
	for i, one := range spools {
		writers.Go(func() {
			for n := range batches {
				batch := &trainv1.MetricBatch{}
				for p := range 100 {
					batch.Points = append(batch.Points, &trainv1.MetricPoint{Key: fmt.Sprint("train/metric-", p), Value: float64(n), Step: int64(n), Time: timestamppb.New(time.Unix(int64(n), 0))})
				}
				payload, err := proto.Marshal(&registryv1.IngestRequest{JobId: "job", Attempt: 1, Fence: uint64(i) + 1, Batch: &registryv1.IngestRequest_Metrics{Metrics: batch}})
				if err == nil {
					_, err = one.Append(ctx, uint64(n)+1, spool.Batch, payload)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
			if err := one.Flush(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	writers.Wait()
	for _, one := range spools {
		result.bytes = max(result.bytes, one.Stats().Bytes)
	}
	s.mu.Lock()
	s.away = false
	s.mu.Unlock()
	begun := time.Now()
	for _, one := range spools {
		if err := one.WaitDrained(ctx); err != nil {
			t.Error(err)
		}
	}
	result.took = time.Since(begun)
	cancel()
	drains.Wait()
	for _, one := range spools {
		if err := one.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	server.Stop()
	result.points, result.lost = s.points, streams*batches*100-s.points+s.wrong
	return result
}

// A registry that comes back gets everything, once and in order.
func TestOutage(t *testing.T) {
	t.Parallel()
	if got := absent(t, 5, 60); got.lost != 0 || got.points != 5*60*100 || got.bytes == 0 {
		t.Fatalf("%+v", got)
	}
}
