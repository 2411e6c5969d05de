//go:build results

package sweep_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryapi"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryfake"
)

// victim is what the process that dies is told.
type victim struct {
	Registry, DSN, Policy, Sweep, Scratch string
	S3                                    objectstore.Config
	At                                    int
	After                                 bool
}

const victimEnv = "TRAINYARD_TEST_VICTIM"

// TestVictim is the process that dies, not a test: it carries one sweep on, and kills itself for real
// at the call that it was told.
func TestVictim(t *testing.T) {
	raw := os.Getenv(victimEnv)
	if raw == "" {
		t.Skip("only as a child of TestCampaignKills")
	}
	var v victim
	if err := json.Unmarshal([]byte(raw), &v); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	pool, err := pg.Open(ctx, pg.Config{DSN: v.DSN, Schema: postgres.Schema, MaxConns: 2}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	bucket, err := objectstore.Open(v.S3)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(v.Registry, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	w := &world{client: registryapi.New(registryv1.NewRetentionServiceClient(conn)), bucket: bucket, store: postgres.New(pool), policy: v.Policy}
	a := &axe{at: v.At, after: v.After, die: func() {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}}
	done, err := w.sweeper(t, a).Run(ctx, v.Sweep)
	fmt.Printf("victim lived: %d calls, %v, %v\n", a.calls, done.State, err)
}

// stage is one world that a process of its own can work on.
type stage struct {
	*world
	victim
}

func newStage(t *testing.T, archive bool) *stage {
	t.Helper()
	cfg := s3test.Config(t)
	bucket, err := objectstore.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.EnsureBucket(t.Context()); err != nil {
		t.Fatal(err)
	}
	dsn := pgtest.DSN(t, postgres.Schema, postgres.Migrations)
	pool, err := pg.Open(t.Context(), pg.Config{DSN: dsn, Schema: postgres.Schema, MaxConns: 2}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	registry := registryfake.New(bucket)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	registryv1.RegisterRetentionServiceServer(server, registry)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	w := &world{registry: registry, client: registryapi.New(registryv1.NewRetentionServiceClient(registry.Serve(t))), bucket: bucket, store: postgres.New(pool), policy: "builtin:development"}
	if archive {
		w.fillArchive(t)
	} else {
		w.fill(t)
	}
	s := &stage{world: w, victim: victim{Registry: listener.Addr().String(), DSN: dsn, Policy: w.policy, S3: cfg, Sweep: w.open(t, nil), Scratch: t.TempDir()}}
	return s
}

// kill runs the victim, and after the wait kills it from outside unless it has done it itself.
func (s *stage) kill(t *testing.T, at int, after bool, wait time.Duration) (died bool, took time.Duration, out string) {
	t.Helper()
	s.victim.At, s.victim.After = at, after
	raw, err := json.Marshal(s.victim)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVictim$", "-test.v")
	cmd.Env = append(os.Environ(), victimEnv+"="+string(raw), "TMPDIR="+s.victim.Scratch)
	var b strings.Builder
	cmd.Stdout, cmd.Stderr = &b, &b
	start := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if wait > 0 {
		timer := time.AfterFunc(wait, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true, time.Since(start), b.String()
	}
	if err != nil {
		t.Fatalf("the victim ended by itself: %v\n%s", err, b.String())
	}
	return false, time.Since(start), b.String()
}

func (s *stage) resumeAndCheck(t *testing.T, archive bool) {
	t.Helper()
	if err := s.sweeper(t, nil).Resume(t.Context()); err != nil {
		t.Error(err)
		return
	}
	if archive {
		s.checkArchive(t)
	} else {
		s.check(t, s.Sweep)
	}
}

// TRAINYARD_KILLS sets how often each step is killed, TRAINYARD_RANDOM_KILLS how many kills fall anywhere.
func TestCampaignKills(t *testing.T) {
	each, random := 20, 280
	if v, err := strconv.Atoi(os.Getenv("TRAINYARD_KILLS")); err == nil {
		each = v
	}
	if v, err := strconv.Atoi(os.Getenv("TRAINYARD_RANDOM_KILLS")); err == nil {
		random = v
	}
	rows := []benchtable.Row{}
	var failures, total atomic.Int64
	for _, archive := range []bool{false, true} {
		name := map[bool]string{false: "sweep", true: "archive"}[archive]
		whole := &axe{}
		w := newWorld(t)
		if archive {
			w.fillArchive(t)
		} else {
			w.fill(t)
		}
		if _, err := w.sweeper(t, whole).Run(t.Context(), w.open(t, nil)); err != nil {
			t.Fatal(err)
		}
		var died atomic.Int64
		turn := func(t *testing.T, at int, after bool, wait time.Duration) {
			s := newStage(t, archive)
			dead, _, out := s.kill(t, at, after, wait)
			if dead {
				died.Add(1)
			} else if wait == 0 {
				t.Errorf("it did not die at call %d:\n%s", at, out)
			}
			s.resumeAndCheck(t, archive)
			total.Add(1)
			if t.Failed() {
				failures.Add(1)
			}
		}
		t.Run(name, func(t *testing.T) {
			for at := 1; at <= whole.calls; at++ {
				for _, after := range []bool{false, true} {
					for n := range each {
						t.Run(fmt.Sprintf("call %d, effect %v, %d", at, after, n), func(t *testing.T) {
							t.Parallel()
							turn(t, at, after, 0)
						})
					}
				}
			}
		})
		steps := died.Load()
		rows = append(rows, benchtable.Row{What: "SIGKILLs at the " + fmt.Sprint(2*whole.calls) + " steps of " + name, Asked: "each x 20", Ours: benchtable.Of("", float64(steps)), Note: fmt.Sprintf("each x %d", each)})
		r := rand.New(rand.NewPCG(9, 9))
		_, took, _ := newStage(t, archive).kill(t, 0, false, 0)
		t.Run(name+" at random", func(t *testing.T) {
			for n := range random / 2 {
				wait := time.Duration(1 + r.Int64N(int64(took)))
				t.Run(fmt.Sprint(n), func(t *testing.T) {
					t.Parallel()
					turn(t, 0, false, wait)
				})
			}
		})
		rows = append(rows, benchtable.Row{What: "random SIGKILLs during " + name, Asked: "200 in all", Ours: benchtable.Of("", float64(died.Load()-steps)), Note: fmt.Sprintf("of %d tries; the others had ended", random/2)})
	}
	rows = append(rows, benchtable.Row{What: "checkpoints lost, bytes leaked after the next run, sweeps that did not resume", Asked: "0", Ours: benchtable.Of("", float64(failures.Load())), Note: fmt.Sprintf("in %d kills", total.Load())})
	benchtable.Section{
		Page: "janitor.md", Title: "SIGKILL at every step", Command: "make campaign ONLY=services/checkpoint-janitor CAMPAIGN=TestCampaignKills",
		Intro: "A process of its own, with real Postgres and a real S3 server, killed by SIGKILL before or after the effect of each call, or at any moment; then resumed, " +
			"and the bucket compared byte by byte with what must be left. The registry is its contract in memory (the real one: `services/registry`, and the live race below).",
		Rows: rows,
	}.Write(t)
	if failures.Load() > 0 || total.Load() == 0 {
		t.Fatalf("%d of %d failed", failures.Load(), total.Load())
	}
}
