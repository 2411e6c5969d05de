//go:build results

package scheduler_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// newLoopbackMesh is a mesh on the loopback network, as its peers are.
func newLoopbackMesh(t testing.TB) *mesh {
	t.Helper()
	m := &mesh{t: t}
	m.onLoopback(func(string) {})
	return m.begin()
}

const (
	submitCallers = 64
	submitJobs    = 6400
	submitSingles = 200
	submitRuns    = 2
)

// peerFigures is what the peer's script prints.
type peerFigures struct {
	Rate   float64 `json:"submits_per_second"`
	Submit float64 `json:"submit_p50_ms"`
	Start  float64 `json:"start_p50_ms"`
}

// celery measures Celery over Redis with acks_late. Every submit is on disk before
// it is answered, as ours is: appendfsync always.
func celery(t *testing.T) peerFigures {
	t.Helper()
	cache, err := filepath.Abs("../../.cache")
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(cache, "celery/bin/python")
	if _, err := os.Stat(python); err != nil {
		t.Skip("Celery is missing: run tools/dev/setup celery")
	}
	server, libraries := filepath.Join(cache, "redis/usr/bin/redis-server"), filepath.Join(cache, "redis/usr/lib/x86_64-linux-gnu")
	if found, err := exec.LookPath("redis-server"); err == nil {
		server = found
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(lis.Addr().(*net.TCPAddr).Port)
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	redis := exec.CommandContext(t.Context(), server, "--port", port, "--bind", "127.0.0.1", "--dir", t.TempDir(), "--appendonly", "yes", "--appendfsync", "always", "--save", "")
	redis.Env = append(os.Environ(), "LD_LIBRARY_PATH="+libraries)
	if err := redis.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = redis.Process.Kill()
		_ = redis.Wait()
	}()
	for {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = conn.Close()
			break
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	peer := exec.CommandContext(t.Context(), python, "testdata/celery_peer.py", strconv.Itoa(submitCallers), strconv.Itoa(submitJobs), strconv.Itoa(submitSingles))
	peer.Env = append(os.Environ(), "CELERY_PEER_URL=redis://127.0.0.1:"+port+"/0")
	out, err := peer.Output()
	if err != nil {
		t.Fatalf("the peer: %v", err)
	}
	var f peerFigures
	if err := json.Unmarshal(out, &f); err != nil {
		t.Fatalf("the peer said %q: %v", out, err)
	}
	return f
}

// together measures submits per second by many callers.
func together(t *testing.T) float64 {
	t.Helper()
	m := newLoopbackMesh(t)
	clients := make([]jobv1.JobServiceClient, 8)
	for i := range clients {
		clients[i] = jobv1.NewJobServiceClient(m.dial(identity.RolePerson, "ann"))
		s := spec(gib)
		s.WaitForCapacity = true
		m.submit(clients[i], s) // connects
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for c := range submitCallers {
		wg.Go(func() {
			s := spec(gib)
			s.WaitForCapacity = true
			for range submitJobs / submitCallers {
				if _, err := clients[c%len(clients)].SubmitJob(t.Context(), &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: s}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return submitJobs / time.Since(begin).Seconds()
}

// alone measures one caller: the submit, and from the submit to the start on a
// host.
func alone(t *testing.T) (submit, start []float64) {
	t.Helper()
	m := newLoopbackMesh(t)
	ctx, cancel := context.WithCancel(t.Context())
	l := m.lanes("h1", "c", 64, map[string]time.Duration{})
	begun := make(chan time.Time, 1)
	l.begun = func() { begun <- time.Now() }
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx) })
	defer wg.Wait()
	defer cancel()
	people := m.people()
	s := spec(1 << 20)
	s.WaitForCapacity = true
	for i := range submitSingles + 1 {
		from := time.Now()
		m.submit(people, s)
		answered := time.Now()
		at := <-begun
		if i > 0 { // the first one connects
			submit = append(submit, float64(answered.Sub(from).Microseconds())/1000)
			start = append(start, float64(at.Sub(from).Microseconds())/1000)
		}
	}
	return submit, start
}

// Durable submits, beside a task queue that is asked for the same promise.
func TestResultsSubmit(t *testing.T) {
	const name = "Celery 5.5.3, Redis 7.0.15, acks_late, appendfsync always"
	var rates, peerRates, peerSubmit, peerStart, submits, starts []float64
	for range submitRuns {
		p := celery(t)
		peerRates, peerSubmit, peerStart = append(peerRates, p.Rate), append(peerSubmit, p.Submit), append(peerStart, p.Start)
		rates = append(rates, together(t))
		submit, start := alone(t)
		submits = append(submits, benchtable.Quantile(submit, 0.5))
		starts = append(starts, benchtable.Quantile(start, 0.5))
	}
	benchtable.Section{
		Page: "scheduler-service.md", Title: "Durable submits beside Celery", Command: "make bench ONLY=services/scheduler RESULTS='TestResultsSubmit$'",
		Intro: "A submit is answered when it would survive a crash: ours is a job, its receipt and its history in Postgres; the peer's is a message in Redis whose log is synced. " +
			"Ours goes over mutual TLS and full validation on the loopback network. Runs of both alternate; callers and servers share this machine.",
		Rows: []benchtable.Row{
			{What: "submits/s, 64 callers", Asked: ">= 2,000/s", Ours: benchtable.Of("/s", rates...), Peer: benchtable.Of("/s", peerRates...), PeerName: name},
			{What: "one caller: submit p50", Asked: "<= 5 ms", Ours: benchtable.Of("ms", submits...), Peer: benchtable.Of("ms", peerSubmit...), PeerName: name},
			{What: "one caller: submit to start p50", Ours: benchtable.Of("ms", starts...), Peer: benchtable.Of("ms", peerStart...), PeerName: name,
				Note: "ours: placed under a new fence, durably, and at its host; the peer: in a worker's task"},
		},
		Notes: []string{"The peer keeps a message; ours also places it, fences it and can say why. Its submitters are Python: 4 processes of 16 threads."},
	}.Write(t)
}
