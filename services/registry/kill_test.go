package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// childEnv makes this test binary a registry process, so that it can be killed like one.
const childEnv = "TRAINYARD_TEST_REGISTRY_CHILD"

func runChild(raw string) int {
	var cfg Config
	if err := json.Unmarshal([]byte(raw), &cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := Run(ctx, cfg, "test"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// victim is a registry process that is killed, and started again whenever it ended: by
// SIGKILL, or by itself because Postgres died while it was starting.
type victim struct {
	mu      sync.Mutex
	process *os.Process
	stopped bool
	done    chan struct{}
}

func startVictim(t *testing.T, cfg Config) *victim {
	t.Helper()
	raw, err := json.Marshal(cfg)
	must(t, err)
	v := &victim{done: make(chan struct{})}
	go func() {
		defer close(v.done)
		// The death signal below is sent when the starting thread ends.
		runtime.LockOSThread()
		for {
			cmd := exec.Command(os.Args[0], "-test.run=^$")
			cmd.Env = append(os.Environ(), childEnv+"="+string(raw))
			cmd.Stderr = os.Stderr
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			v.mu.Lock()
			if v.stopped {
				v.mu.Unlock()
				return
			}
			err := cmd.Start()
			v.process = cmd.Process
			v.mu.Unlock()
			if err != nil {
				t.Errorf("start the registry: %v", err)
				return
			}
			_ = cmd.Wait() // however it ended, the next one is started
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return v
}

// kill ends the present process by SIGKILL.
func (v *victim) kill() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.process != nil {
		_ = v.process.Kill() // it may have ended by itself
	}
}

// stop ends it for good.
func (v *victim) stop() {
	v.mu.Lock()
	v.stopped = true
	v.mu.Unlock()
	v.kill()
	<-v.done
}

const (
	killWriters = 20
	killBatches = 60
	killPoints  = 50
	killRounds  = 8
)

// Twenty writers send while the registry, and now and then Postgres under it, is killed
// with SIGKILL at random instants. Whatever was acknowledged is there, once.
func TestKilledAtAnyInstantLosesAndDoublesNothing(t *testing.T) {
	bin, err := pgserver.Find(t.Context(), nil)
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this test kills its own Postgres. %v", err)
	}
	// Not t.TempDir: Postgres drops root, and every parent must be enterable by its user.
	dir, err := os.MkdirTemp("", "trainyard-test-kill-*")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	startPostgres := func() *pgserver.Server {
		// Durable: with fsync off a killed server could lose what it acknowledged.
		server, err := pgserver.Start(context.WithoutCancel(t.Context()), pgserver.Options{Dir: filepath.Join(dir, "pg"), Durable: true, Binaries: bin})
		must(t, err)
		return server
	}
	database := startPostgres()
	t.Cleanup(func() { must(t, database.Stop()) })
	must(t, database.EnsureDatabase(t.Context(), "mesh"))
	dsn := database.DSN("mesh")

	m, cfg := prepare(t)
	cfg.DSN = dsn
	// A port that stays the same over restarts; nothing else listens on it between them.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m.addr, cfg.Listen = free.Addr().String(), free.Addr().String()
	must(t, free.Close())
	registry := startVictim(t, cfg)
	t.Cleanup(registry.stop)
	m.connect()

	var acked, resent atomic.Int64
	jobs := make([]string, killWriters)
	var wg sync.WaitGroup
	for w := range killWriters {
		jobs[w] = uuid.NewString()
		wg.Go(func() {
			if err := m.stubborn(jobs[w], uint64(w+1), &acked, &resent); err != nil {
				t.Error(err)
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	kills := 0
	for finished := false; !finished && kills < killRounds; {
		select {
		case <-done:
			finished = true
		case <-time.After(time.Duration(200+rand.IntN(500)) * time.Millisecond):
			kills++
			if kills%4 == 0 {
				must(t, syscall.Kill(database.PID(), syscall.SIGKILL))
				<-database.Done()
				_ = database.Stop() // it is dead; this only frees what it held
				database = startPostgres()
				continue
			}
			registry.kill()
		}
	}
	<-done
	if kills < killRounds/2 {
		t.Errorf("only %d kills: the writers were done too soon to prove anything", kills)
	}
	t.Logf("%d kills, %d points acknowledged, %d batches sent again", kills, acked.Load(), resent.Load())

	pool, err := pg.Open(t.Context(), pg.Config{DSN: dsn, Schema: postgres.Schema}, nil)
	must(t, err)
	defer pool.Close()
	store := postgres.New(pool)
	for _, job := range jobs {
		points, err := store.MetricHistory(t.Context(), job, "m")
		must(t, err)
		if len(points) != killBatches*killPoints {
			t.Fatalf("job %s has %d of %d points", job, len(points), killBatches*killPoints)
		}
		for i, p := range points {
			if p.Step != int64(i) || p.Value != float64(i) {
				t.Fatalf("job %s: point %d is %+v", job, i, p)
			}
		}
	}
	var rows int64
	must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM metric_points`).Scan(&rows))
	if rows != killWriters*killBatches*killPoints {
		t.Errorf("%d rows stored, %d sent", rows, killWriters*killBatches*killPoints)
	}
}

// stubborn sends one job's batches as an agent does: what has no answer is sent again, in
// order, on a new stream, until everything is acknowledged.
func (m *mesh) stubborn(job string, fence uint64, acked, resent *atomic.Int64) error {
	next := uint64(1) // the first sequence without an answer
	sent := uint64(0)
	for next <= killBatches+1 {
		if m.ctx.Err() != nil {
			return m.ctx.Err()
		}
		stream, err := m.agent.Ingest(m.ctx)
		if err == nil {
			err = m.drain(stream, job, fence, &next, &sent, acked, resent)
		}
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

var errRefused = errors.New("refused")

func (m *mesh) drain(stream grpc.BidiStreamingClient[registryv1.IngestRequest, registryv1.IngestResponse], job string, fence uint64, next, sent *uint64, acked, resent *atomic.Int64) error {
	const window = 8
	flying := *next
	for *next <= killBatches+1 {
		for flying <= killBatches+1 && flying < *next+window {
			r := &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Opened{Opened: &registryv1.RunOpened{Spec: spec(""), Traceparent: jobTrace}}}
			if flying > 1 {
				values := make([]float64, killPoints)
				for i := range values {
					values[i] = float64((int(flying)-2)*killPoints + i)
				}
				r = points("m", int64(flying-2)*killPoints, values...)
			}
			r.JobId, r.Attempt, r.Fence, r.Sequence = job, 1, fence, flying
			if err := stream.Send(r); err != nil {
				return err
			}
			if flying <= *sent {
				resent.Add(1)
			}
			*sent = max(*sent, flying)
			flying++
		}
		got, err := stream.Recv()
		if err != nil {
			return err
		}
		if got.GetResult() != registryv1.IngestResponse_RESULT_ACCEPTED || got.GetSequence() != *next {
			m.Errorf("job %s: answer %v for %d, expected %d: %s", job, got.GetResult(), got.GetSequence(), *next, got.GetMessage())
			return errRefused
		}
		if *next > 1 {
			acked.Add(killPoints)
		}
		*next++
		time.Sleep(10 * time.Millisecond) // spread the work over the kills
	}
	return nil
}
