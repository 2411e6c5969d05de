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
	"strings"
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

// killing is a plan of kills under writers.
type killing struct {
	writers, points  int
	registry, server int
	// leastAcked goes on, killing, until so many points were acknowledged.
	leastAcked int64
	// lossy makes Postgres acknowledge before the disk has it: the control.
	lossy bool
	// pause is the longest wait between two kills.
	pause time.Duration
}

// killed is what came of it. Lost and doubled points are among those acknowledged.
type killed struct {
	registry, server             int
	acked, resent, lost, doubled int64
	took                         time.Duration
}

// Twenty writers send while the registry, and now and then Postgres under it, is killed
// with SIGKILL at random instants. Whatever was acknowledged is there, once.
func TestKilledAtAnyInstantLosesAndDoublesNothing(t *testing.T) {
	got := kill(t, killing{writers: 20, points: 50, registry: 6, server: 2, leastAcked: 20_000, pause: 600 * time.Millisecond})
	t.Logf("%+v", got)
	if got.lost != 0 || got.doubled != 0 {
		t.Errorf("%d acknowledged points are lost, %d are there twice", got.lost, got.doubled)
	}
}

func kill(t *testing.T, plan killing) killed {
	t.Helper()
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
	if plan.lossy {
		separator := "?"
		if strings.Contains(dsn, "?") {
			separator = "&"
		}
		cfg.DSN += separator + "synchronous_commit=off"
	}
	// A port that stays the same over restarts; nothing else listens on it between them.
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	m.addr, cfg.Listen = free.Addr().String(), free.Addr().String()
	must(t, free.Close())
	registry := startVictim(t, cfg)
	t.Cleanup(registry.stop)
	m.connect()

	began := time.Now()
	stop := make(chan struct{})
	writers := make([]*stubborn, plan.writers)
	var (
		acked atomic.Int64
		wg    sync.WaitGroup
	)
	for i := range writers {
		w := &stubborn{m: m, job: uuid.NewString(), fence: uint64(i + 1), points: plan.points, next: 1, stop: stop, acked: &acked, lossy: plan.lossy}
		writers[i] = w
		wg.Go(func() {
			if err := w.run(); err != nil {
				t.Error(err)
			}
		})
	}
	var out killed
	for out.registry < plan.registry || out.server < plan.server || acked.Load() < plan.leastAcked {
		time.Sleep(plan.pause/3 + rand.N(plan.pause*2/3))
		// In proportion, so that both kinds go on to the end.
		if out.server*max(plan.registry, 1) < out.registry*plan.server || out.registry >= plan.registry && out.server < plan.server {
			out.server++
			must(t, syscall.Kill(database.PID(), syscall.SIGKILL))
			<-database.Done()
			_ = database.Stop() // it is dead; this only frees what it held
			database = startPostgres()
			continue
		}
		out.registry++
		registry.kill()
	}
	close(stop)
	wg.Wait()
	out.took = time.Since(began)

	pool, err := pg.Open(t.Context(), pg.Config{DSN: dsn, Schema: postgres.Schema}, nil)
	must(t, err)
	defer pool.Close()
	for _, w := range writers {
		out.resent += w.resent
		sent := int64(w.next-2) * int64(plan.points)
		out.acked += w.accepted
		var rows, steps int64
		var right bool
		must(t, pool.QueryRow(t.Context(), `SELECT count(*), count(DISTINCT p.step), COALESCE(bool_and(p.step = p.value AND p.step >= 0 AND p.step < $2), true)
			FROM metric_series s JOIN metric_points p USING (series_id) WHERE s.run_id = $1`, w.job, sent).Scan(&rows, &steps, &right))
		out.lost += w.accepted - steps
		out.doubled += rows - steps
		if !right {
			t.Errorf("job %s has points that nobody sent", w.job)
		}
	}
	var rows int64
	must(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM metric_points`).Scan(&rows))
	if want := out.acked - out.lost + out.doubled; rows != want {
		t.Errorf("%d rows stored, %d belong to the writers", rows, want)
	}
	return out
}

// stubborn sends one job's batches as an agent does: what has no answer is sent again, in
// order, on a new stream, until it is told to stop and everything is acknowledged.
type stubborn struct {
	m      *mesh
	job    string
	fence  uint64
	points int
	stop   <-chan struct{}
	acked  *atomic.Int64
	resent int64
	// lossy expects a database that forgets: then a refusal is no surprise, and no loss.
	lossy bool
	// accepted is the number of points in batches that were not refused.
	accepted int64
	// next is the first sequence without an answer, sent the last that was sent.
	next, sent uint64
}

func (w *stubborn) stopped() bool {
	select {
	case <-w.stop:
		return true
	default:
		return false
	}
}

func (w *stubborn) run() error {
	for !w.stopped() || w.next <= w.sent {
		if w.m.ctx.Err() != nil {
			return w.m.ctx.Err()
		}
		stream, err := w.m.agent.Ingest(w.m.ctx)
		if err == nil {
			err = w.drain(stream)
		}
		if errors.Is(err, errRefused) {
			return err
		}
		if err != nil {
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

var errRefused = errors.New("refused")

// drain sends and receives on one stream until it breaks or all is done.
func (w *stubborn) drain(stream grpc.BidiStreamingClient[registryv1.IngestRequest, registryv1.IngestResponse]) error {
	const window = 8
	for flying := w.next; ; {
		for flying < w.next+window && (flying <= w.sent || !w.stopped()) {
			r := &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Opened{Opened: &registryv1.RunOpened{Spec: spec(""), Traceparent: jobTrace}}}
			if flying > 1 {
				values := make([]float64, w.points)
				for i := range values {
					values[i] = float64((int(flying)-2)*w.points + i)
				}
				r = points("m", int64(flying-2)*int64(w.points), values...)
			}
			r.JobId, r.Attempt, r.Fence, r.Sequence = w.job, 1, w.fence, flying
			if err := stream.Send(r); err != nil {
				return err
			}
			if flying <= w.sent {
				w.resent++
			}
			w.sent = max(w.sent, flying)
			flying++
		}
		if w.next > w.sent {
			return nil
		}
		got, err := stream.Recv()
		if err != nil {
			return err
		}
		if got.GetSequence() != w.next || got.GetResult() != registryv1.IngestResponse_RESULT_ACCEPTED && !w.lossy {
			return fmt.Errorf("job %s: answer %v for %d, expected %d: %s: %w", w.job, got.GetResult(), got.GetSequence(), w.next, got.GetMessage(), errRefused)
		}
		if w.next > 1 && got.GetResult() == registryv1.IngestResponse_RESULT_ACCEPTED {
			w.acked.Add(int64(w.points))
			w.accepted += int64(w.points)
		}
		w.next++
		time.Sleep(2 * time.Millisecond) // a writer waits for its trainer now and then
	}
}
