//go:build results

package scheduler_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/failpoint"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/postgres"
)

// pair is two real scheduler processes over one database, a fleet of hosts and
// people who submit; whatever dies is started again.
type pair struct {
	t         *testing.T
	bin       string
	dsn       string
	ca        *identity.Authority
	files     identity.Files
	addresses [2]string
	procs     [2]*exec.Cmd
	gone      [2]chan struct{}

	mu       sync.Mutex
	accepted map[string]bool
	// last is when a submit was last answered.
	last time.Time
	asks atomic.Int64
}

// campaignPoints says how often each failpoint is tried, campaignKills how many
// random kills there are.
func campaignSize(t *testing.T, name string, usual int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t, dsn: pgtest.DSN(t, postgres.Schema, postgres.Migrations), accepted: map[string]bool{}, bin: filepath.Join(t.TempDir(), "scheduler")}
	build := exec.CommandContext(t.Context(), "go", "build", "-tags=failpoints,arrow_json_stdlib", "-o", p.bin, "./cmd/scheduler")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var err error
	if p.ca, err = identity.NewAuthority(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if p.files, err = p.ca.Issue(identity.RoleScheduler, "one"); err != nil {
		t.Fatal(err)
	}
	for i := range p.addresses {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		p.addresses[i] = lis.Addr().String()
		if err := lis.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		for i := range p.procs {
			p.kill(i)
		}
	})
	return p
}

// start begins a new life of one scheduler; point, where set, is where it ends.
func (p *pair) start(i int, point string) {
	p.t.Helper()
	cmd := exec.Command(p.bin, "--listen="+p.addresses[i], "--tls-cert="+p.files.Cert, "--tls-key="+p.files.Key, "--tls-ca="+p.files.CA,
		"--lease=4s", "--lock-delay=1s", "--poll=1s", "--lead-ttl=1s", "--log-level=error")
	cmd.Env = append(os.Environ(), "TRAINYARD_SCHEDULER_DSN="+p.dsn, "TRAINYARD_FAILPOINT="+point)
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	gone := make(chan struct{})
	p.procs[i], p.gone[i] = cmd, gone
	go func() {
		_ = cmd.Wait()
		close(gone)
	}()
}

func (p *pair) kill(i int) {
	if p.procs[i] == nil {
		return
	}
	_ = p.procs[i].Process.Signal(syscall.SIGKILL)
	<-p.gone[i]
}

// dial connects a caller to one of the two.
func (p *pair) dial(i int, role identity.Role, name string) *grpc.ClientConn {
	p.t.Helper()
	files, err := p.ca.Issue(role, name)
	if err != nil {
		p.t.Fatal(err)
	}
	tls, err := identity.ClientTLS(files, identity.RoleScheduler)
	if err != nil {
		p.t.Fatal(err)
	}
	conn, err := grpc.NewClient(p.addresses[i], grpc.WithTransportCredentials(credentials.NewTLS(tls)),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// either calls one scheduler or the other, whichever answers.
type either struct{ conns [2]*grpc.ClientConn }

func (p *pair) either(role identity.Role, name string) *either {
	return &either{[2]*grpc.ClientConn{p.dial(0, role, name), p.dial(1, role, name)}}
}

func (e *either) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	var errs []error
	for i := range e.conns {
		call, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := e.conns[i].Invoke(call, method, in, out, opts...)
		cancel()
		if err == nil {
			if i == 1 {
				e.conns[0], e.conns[1] = e.conns[1], e.conns[0]
			}
			return nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (e *either) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := e.conns[0].NewStream(ctx, desc, method, opts...)
	if err != nil {
		e.conns[0], e.conns[1] = e.conns[1], e.conns[0]
	}
	return s, err
}

// load runs hosts until hostCtx ends and submitters until ctx does.
func (p *pair) load(ctx, hostCtx context.Context, wg, hosts *sync.WaitGroup) {
	for h := range 3 {
		name := fmt.Sprintf("h%d", h)
		l := &lanes{client: fleetv1.NewSynchronizeServiceClient(p.either(identity.RoleAgent, name)), runs: map[string]time.Duration{"job": 150 * time.Millisecond},
			held: map[uint64]*fleetv1.HeldLease{}, exits: map[uint64]*fleetv1.Exit{}, report: laneReport(name, "c", 32)}
		hosts.Go(func() { l.run(hostCtx) })
	}
	for c := range 4 {
		client := jobv1.NewJobServiceClient(p.either(identity.RolePerson, fmt.Sprintf("p%d", c)))
		wg.Go(func() {
			for ctx.Err() == nil {
				p.submit(hostCtx, client)
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
}

// submit asks until it is answered, always with the same request.
func (p *pair) submit(ctx context.Context, client jobv1.JobServiceClient) {
	in := &jobv1.SubmitJobRequest{RequestId: uuid.NewString(), Spec: &jobv1.JobSpec{
		DisplayName: "job", Experiment: "e", WaitForCapacity: true,
		Resources: &jobv1.Resources{CpuMillis: 1000, HostMemoryBytes: 1 << 20, Devices: []*jobv1.DeviceDemand{{MemoryBytes: 1 << 20}}},
		Runtime:   &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{Argv: []string{"x"}}},
	}}
	for ctx.Err() == nil {
		p.asks.Add(1)
		r, err := client.SubmitJob(ctx, in)
		if err == nil {
			p.mu.Lock()
			p.accepted[r.GetJob().GetJobId()] = true
			p.last = time.Now()
			p.mu.Unlock()
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func (p *pair) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.accepted)
}

func (p *pair) answered() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// verdict waits until every accepted job is final and counts what went wrong.
type verdict struct{ accepted, lost, doubled, extra, attempts int }

func (p *pair) judge() verdict {
	p.t.Helper()
	client := jobv1.NewJobServiceClient(p.either(identity.RolePerson, "judge"))
	deadline := time.Now().Add(90 * time.Second)
	for {
		v := verdict{accepted: len(p.accepted)}
		jobs := map[string]*jobv1.Job{}
		var failed error
		for token := ""; ; {
			page, err := client.ListJobs(p.t.Context(), &jobv1.ListJobsRequest{PageSize: 1000, PageToken: token})
			if failed = err; err != nil {
				break
			}
			for _, j := range page.GetJobs() {
				jobs[j.GetJobId()] = j
			}
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
		unfinished := 0
		for id := range p.accepted {
			switch j := jobs[id]; {
			case j == nil:
				v.lost++
			case j.GetState() != jobv1.Job_STATE_SUCCEEDED:
				unfinished++
			}
		}
		v.extra = len(jobs) - (v.accepted - v.lost)
		if failed == nil && unfinished == 0 || time.Now().After(deadline) {
			v.lost += unfinished
			for id := range jobs {
				r, err := client.GetJob(p.t.Context(), &jobv1.GetJobRequest{JobId: id})
				if err != nil {
					p.t.Errorf("%s: %v", id, err)
					continue
				}
				won := 0
				for _, a := range r.GetJob().GetAttempts() {
					v.attempts++
					if a.GetState() == jobv1.Attempt_STATE_ENDED && a.GetFailureClass() == jobv1.FailureClass_FAILURE_CLASS_UNSPECIFIED {
						won++
					}
				}
				if won > 1 {
					v.doubled++
				}
			}
			return v
		}
		time.Sleep(time.Second)
	}
}

func (v verdict) rows(tries int, what string) []benchtable.Row {
	return []benchtable.Row{
		{What: what + ": crashes", Ours: benchtable.Of("", float64(tries))},
		{What: what + ": jobs accepted meanwhile", Ours: benchtable.Of("", float64(v.accepted)), Note: fmt.Sprintf("%d attempts", v.attempts)},
		{What: what + ": accepted and lost", Asked: "0", Ours: benchtable.Of("", float64(v.lost))},
		{What: what + ": effective twice", Asked: "0", Ours: benchtable.Of("", float64(v.doubled))},
		{What: what + ": jobs that nobody was told of", Asked: "0", Ours: benchtable.Of("", float64(v.extra)), Note: "a submit whose answer was lost is repeated with its request id"},
	}
}

// Every crash point, many times: the scheduler that leads dies exactly there,
// under load, and the other one goes on.
func TestCampaignFailpoints(t *testing.T) {
	p := newPair(t)
	each := campaignSize(t, "TRAINYARD_CAMPAIGN_EACH", 20)
	ctx, stop := context.WithCancel(t.Context())
	hostCtx, stopHosts := context.WithCancel(t.Context())
	var people, hosts sync.WaitGroup
	defer hosts.Wait()
	defer stopHosts()
	p.start(0, "")
	p.start(1, "")
	p.load(ctx, hostCtx, &people, &hosts)
	crashes := 0
	for _, point := range failpoint.All {
		for i := range each {
			// The new one takes over at its address at once, or waits for the lead.
			n := 1 + rand.IntN(20)
			if point == failpoint.AfterLead || point == failpoint.AfterLoad {
				n = 1
			}
			victim := i % 2
			p.kill(0)
			p.kill(1)
			p.start(victim, fmt.Sprintf("%s:%d", point, n))
			select {
			case <-p.gone[victim]:
				if status, ok := p.procs[victim].ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
					t.Fatalf("a scheduler ended by itself: %s", p.procs[victim].ProcessState)
				}
				crashes++
			case <-time.After(30 * time.Second):
				t.Errorf("%s was not reached %d times", point, n)
			}
			p.start(1-victim, "")
			before := time.Now()
			for p.answered().Before(before) && time.Since(before) < 30*time.Second {
				time.Sleep(20 * time.Millisecond)
			}
		}
		t.Logf("%s: %d crashes so far, %d jobs accepted", point, crashes, p.count())
	}
	stop()
	people.Wait()
	v := p.judge()
	if v.lost+v.doubled+v.extra > 0 {
		t.Errorf("%+v", v)
	}
	benchtable.Section{
		Page: "scheduler-service.md", Title: "Crash points", Command: "make campaign ONLY=services/scheduler CAMPAIGN=TestCampaignFailpoints",
		Intro: fmt.Sprintf("The scheduler kills itself with SIGKILL before and after every commit, every draw of fences, every taking of the lead and every answer: %d points, %d times each, "+
			"each at a random pass of the point, under load from 4 submitters and 3 hosts. Another process goes on.", len(failpoint.All), each),
		Rows: v.rows(crashes, "failpoints"),
	}.Write(t)
}

// Random kills of either scheduler under load.
func TestCampaignKills(t *testing.T) {
	p := newPair(t)
	kills := campaignSize(t, "TRAINYARD_CAMPAIGN_KILLS", 200)
	ctx, stop := context.WithCancel(t.Context())
	hostCtx, stopHosts := context.WithCancel(t.Context())
	var people, hosts sync.WaitGroup
	defer hosts.Wait()
	defer stopHosts()
	p.start(0, "")
	p.start(1, "")
	p.load(ctx, hostCtx, &people, &hosts)
	for p.answered().IsZero() {
		time.Sleep(20 * time.Millisecond)
	}
	var failovers []float64
	for i := range kills {
		time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
		victim := rand.IntN(2)
		p.kill(victim)
		at := time.Now()
		// Half of them stay down, so that the other one must take over.
		down := rand.IntN(2) == 0
		if !down {
			p.start(victim, "")
		}
		for p.answered().Before(at) && time.Since(at) < 60*time.Second {
			time.Sleep(5 * time.Millisecond)
		}
		failovers = append(failovers, time.Since(at).Seconds())
		if down {
			p.start(victim, "")
		}
		if i%20 == 19 {
			t.Logf("%d kills, %d jobs accepted, worst silence %.1f s", i+1, p.count(), benchtable.Quantile(failovers, 1))
		}
	}
	stop()
	people.Wait()
	v := p.judge()
	if v.lost+v.doubled+v.extra > 0 {
		t.Errorf("%+v", v)
	}
	benchtable.Section{
		Page: "scheduler-service.md", Title: "Random kills of two schedulers", Command: "make campaign ONLY=services/scheduler CAMPAIGN=TestCampaignKills",
		Intro: "Two scheduler processes over one Postgres; SIGKILL at random moments to either, half of the victims come back at once, half after the other has taken over. " +
			"Silence is from the kill to the next answered submit, kills of the one that did not lead included.",
		Rows: append(v.rows(kills, "kills"),
			benchtable.Row{What: "silence after a kill, p50", Ours: benchtable.Of("s", benchtable.Quantile(failovers, 0.5))},
			benchtable.Row{What: "silence after a kill, p99", Asked: "< 10 s", Ours: benchtable.Of("s", benchtable.Quantile(failovers, 0.99)), Note: "the lead lives for 1 s without a word in this run, 5 s by default"},
			benchtable.Row{What: "silence after a kill, worst", Ours: benchtable.Of("s", benchtable.Quantile(failovers, 1))}),
	}.Write(t)
}
