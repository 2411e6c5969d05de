package session_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/restore"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/session"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/spool"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
)

// The lease terms of the real scheduler.
const (
	lockDelay = 5 * time.Second
	teardown  = 500 * time.Millisecond // of a killed trainer
)

// cable is the network between agent and scheduler. While it is cut bytes wait, as
// those of a connection do whose packets are lost.
type cable struct {
	mu     sync.Mutex
	healed chan struct{} // closed while the cable is whole
}

func newCable() *cable {
	c := &cable{healed: make(chan struct{})}
	close(c.healed)
	return c
}

func (c *cable) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.healed = make(chan struct{})
}

func (c *cable) heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.healed)
}

func (c *cable) whole() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.healed
}

type cableConn struct {
	net.Conn
	cable  *cable
	once   sync.Once
	closed chan struct{}
}

func (c *cableConn) pass() error {
	select {
	case <-c.cable.whole():
		return nil
	case <-c.closed:
		return net.ErrClosed
	}
}

func (c *cableConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	return n, errors.Join(err, c.pass())
}

func (c *cableConn) Write(p []byte) (int, error) {
	if err := c.pass(); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *cableConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// world is a whole host between a scheduler that keeps its terms and a registry
// that acknowledges, in a bubble's time. Trainers are promises, not processes.
type world struct {
	fleetv1.UnimplementedSynchronizeServiceServer
	t     *testing.T
	dir   string
	cable *cable
	conn  *grpc.ClientConn
	host  *host.Host
	stop  func()

	mu        sync.Mutex
	changed   chan struct{}
	revision  int64
	desired   map[string]*fleetv1.Assignment // by job
	heard     time.Time
	given     map[uint64]time.Time // when a fence's device was given to another
	exits     map[uint64]*fleetv1.Exit
	processes map[string]*process // by directory
	ended     map[uint64]time.Time
	failed    time.Time         // when the host noticed that it is alone, since it was last zero
	away      bool              // the registry
	stored    map[uint64]uint64 // by fence: the last point that it has taken
	points    int
	gaps      int
	every     time.Duration // between two points of a trainer; 0 means that they log none
	lanes     int
	fence     uint64
}

// process is a trainer that does nothing but end when it is killed, or let go.
type process struct {
	w       *world
	fence   uint64
	started time.Time
	once    sync.Once
	done    chan struct{}
}

func (p *process) Supervisor() int       { return 1 << 30 } // no such pid
func (p *process) StartTime() time.Time  { return p.started }
func (p *process) Done() <-chan struct{} { return p.done }
func (p *process) Exit() launch.Exit {
	return launch.Exit{Started: true, Known: true, ExitCode: -1, Signal: "SIGKILL", Time: time.Now()}
}
func (p *process) Terminate() error { return nil }
func (p *process) Kill() error {
	p.once.Do(func() {
		time.AfterFunc(teardown, func() {
			p.w.mu.Lock()
			p.w.ended[p.fence] = time.Now()
			p.w.mu.Unlock()
			close(p.done)
		})
	})
	return nil
}

func (w *world) Start(_ context.Context, dir string, _ launch.Spec, _ []byte) (host.Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := &process{w: w, started: time.Now(), done: make(chan struct{})}
	key := filepath.Base(dir)
	if _, err := fmt.Sscanf(key[len(key)-12:], "-1-%d", &p.fence); err != nil {
		if _, err := fmt.Sscanf(key[36:], "-1-%d", &p.fence); err != nil {
			return nil, err
		}
	}
	w.processes[dir] = p
	if w.every > 0 {
		go p.train(dir)
	}
	return p, nil
}

// train logs a point each w.every until the process ends, over restarts of the agent.
func (p *process) train(dir string) {
	key := lease.Key{JobID: filepath.Base(dir)[:36], Attempt: 1, Fence: p.fence}
	for sequence := uint64(1); ; {
		select {
		case <-p.done:
			return
		case <-time.After(p.w.every):
		}
		p.w.mu.Lock()
		h := p.w.host
		p.w.mu.Unlock()
		a := h.Attempt(key)
		if a == nil {
			continue
		}
		if sequence > a.Appended() {
			ctx, cancel := context.WithTimeout(context.Background(), p.w.every)
			err := a.Batch(ctx, sequence, fmt.Appendf(nil, "%d/%d", p.fence, sequence))
			cancel()
			if err != nil {
				continue
			}
			a.Progress(lease.Progress{Step: int64(sequence), ReportTime: time.Now()})
		}
		sequence++
	}
}

func (w *world) Adopt(_ context.Context, dir string) (host.Process, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.processes[dir]; p != nil {
		return p, nil
	}
	p := &process{w: w, done: make(chan struct{})}
	close(p.done)
	return p, nil
}

// Synchronize keeps the scheduler's side of the lease: silent for longer than its
// terms, and the agent's devices belong to others from that moment.
func (w *world) Synchronize(ctx context.Context, req *fleetv1.SynchronizeRequest) (*fleetv1.SynchronizeResponse, error) {
	w.mu.Lock()
	now := time.Now()
	if lost := w.heard.Add(leaseDuration + lockDelay); !w.heard.IsZero() && now.After(lost) {
		for job, a := range w.desired {
			w.given[a.Fence] = lost
			w.assign(job) // it comes back here, under a newer fence
		}
	}
	w.heard = now
	for _, x := range req.Report.Exits {
		w.exits[x.Fence] = x
		if a := w.desired[x.JobId]; a != nil && a.Fence == x.Fence {
			w.assign(x.JobId)
		}
	}
	for len(req.Report.Exits) == 0 && req.KnownRevision == w.revision {
		changed := w.changed
		w.mu.Unlock()
		timer := time.NewTimer(4 * time.Second)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		late := !timer.Stop()
		w.mu.Lock()
		if ctx.Err() != nil {
			w.mu.Unlock()
			return nil, ctx.Err()
		}
		if late {
			break
		}
	}
	defer w.mu.Unlock()
	out := &fleetv1.SynchronizeResponse{DesiredRevision: w.revision, LeaseDuration: durationpb.New(leaseDuration)}
	for _, a := range w.desired {
		out.Assignments = append(out.Assignments, a)
	}
	for _, x := range req.Report.Exits {
		out.AcknowledgedExits = append(out.AcknowledgedExits, &fleetv1.ExitKey{JobId: x.JobId, Attempt: x.Attempt, Fence: x.Fence})
	}
	return out, nil
}

// assign gives a job its next fence. With w.mu held.
func (w *world) assign(job string) {
	w.fence++
	lane := int(w.fence) % w.lanes
	if a := w.desired[job]; a != nil {
		_, _ = fmt.Sscanf(a.DeviceIds[0], "cpu:%d", &lane) // it was written by this function
	}
	w.desired[job] = &fleetv1.Assignment{JobId: job, Attempt: 1, Fence: w.fence, DeviceIds: []string{fmt.Sprintf("cpu:%d", lane)}, ReservedBytes: []int64{1}}
	w.bump()
}

func (w *world) bump() {
	w.revision++
	close(w.changed)
	w.changed = make(chan struct{})
}

// The registry: it opens, closes and acknowledges.
func (w *world) Opened(lease.Assignment, string, time.Time) ([]byte, error) {
	return []byte("opened"), nil
}
func (w *world) Closed(lease.Exit, string) ([]byte, error) { return []byte("closed"), nil }
func (w *world) Drain(ctx context.Context, s *spool.Spool, _ func(reason, message string)) error {
	for after := uint64(0); ; {
		records, err := s.Next(ctx, after, 1<<20)
		if err != nil {
			return err
		}
		w.mu.Lock()
		if w.away {
			w.mu.Unlock()
			return errors.New("away")
		}
		for _, r := range records {
			w.store(r)
		}
		w.mu.Unlock()
		after = records[len(records)-1].Sequence
		s.Acked(after)
	}
}

// store takes a point once; one that is missing before it would be lost. With w.mu held.
func (w *world) store(r spool.Record) {
	var fence, sequence uint64
	if _, err := fmt.Sscanf(string(r.Payload), "%d/%d", &fence, &sequence); err != nil {
		return // the first or the last of an attempt
	}
	switch last := w.stored[fence]; {
	case sequence == last+1:
		w.stored[fence] = sequence
		w.points++
	case sequence > last+1:
		w.gaps++
	}
}

// The rest of what a host asks of a registry is not asked here.
var errUnused = errors.New("not part of this world")

func (w *world) Resolve(context.Context, lease.Key, string) (*lease.Checkpoint, error) {
	return nil, errUnused
}
func (w *world) Get(context.Context, lease.Transfer) (io.ReadCloser, error) { return nil, errUnused }
func (w *world) ReportCorrupt(context.Context, lease.Key, string, string, ...[32]byte) error {
	return errUnused
}
func (w *world) Put(context.Context, lease.Transfer, io.Reader) error { return errUnused }
func (w *world) CommitCheckpoint(context.Context, lease.Key, string, []byte, string) error {
	return errUnused
}
func (w *world) BeginCheckpoint(context.Context, lease.Key, int64, []lease.File, map[string][]lease.Chunk) (string, []lease.Transfer, error) {
	return "", nil, errUnused
}
func (w *world) BeginArtifact(context.Context, lease.Key, lease.File) (*lease.Transfer, error) {
	return nil, errUnused
}
func (w *world) CommitArtifact(context.Context, lease.Key, lease.File, string) error {
	return errUnused
}
func (w *world) PrepareParts(context.Context, lease.Key, lease.File, []lease.Part) (map[uint32]lease.Transfer, bool, error) {
	return nil, false, errUnused
}

var _ upload.Registry = (*world)(nil)

type silent struct{ w *world }

// SelfFenced is the other way in which a host finds that it is alone.
func (s silent) SelfFenced() {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.failed.IsZero() {
		s.w.failed = time.Now()
	}
}

func (silent) Launched()                                         {}
func (silent) Ended(string, string)                              {}
func (silent) BatchRefused(string)                               {}
func (silent) CheckpointCommitted(int64, int64, time.Duration)   {}
func (silent) CheckpointRejected()                               {}
func (silent) SpoolDamage()                                      {}
func (silent) SequenceGap()                                      {}
func (silent) Attribute(_ lease.Key, report lease.OOM) lease.OOM { return report }

// newWorld begins with the given jobs, one on each of as many lanes.
func newWorld(t *testing.T, dir string, jobs int) *world {
	t.Helper()
	w := &world{
		t: t, dir: dir, cable: newCable(), changed: make(chan struct{}), revision: 1, lanes: jobs, desired: map[string]*fleetv1.Assignment{},
		given: map[uint64]time.Time{}, exits: map[uint64]*fleetv1.Exit{}, processes: map[string]*process{}, ended: map[uint64]time.Time{}, stored: map[uint64]uint64{},
	}
	for range jobs {
		w.assign(uuid.NewString())
	}
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer(grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 8 * time.Second, PermitWithoutStream: true}))
	fleetv1.RegisterSynchronizeServiceServer(server, w)
	go func() { _ = server.Serve(listener) }() // it ends with Stop
	conn, err := grpc.NewClient("passthrough:///scheduler", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			err := invoke(ctx, method, req, reply, cc, opts...)
			w.mu.Lock()
			if err != nil && ctx.Err() == nil && w.failed.IsZero() {
				w.failed = time.Now()
			}
			w.mu.Unlock()
			return err
		}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			select {
			case <-w.cable.whole():
			case <-ctx.Done():
				return nil, ctx.Err()
			}
			c, err := listener.DialContext(ctx)
			if err != nil {
				return nil, err
			}
			return &cableConn{Conn: c, cable: w.cable, closed: make(chan struct{})}, nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	w.conn = conn
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		server.Stop()
	})
	return w
}

// start runs an agent over the world's directory until w.stop.
func (w *world) start() {
	w.t.Helper()
	exits, err := journal.Open(disk.OS(), filepath.Join(w.dir, "journal"))
	if err != nil {
		w.t.Fatal(err)
	}
	tier, err := restore.NewTier(filepath.Join(w.dir, "tier"), 1<<20, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	h := host.New(host.Settings{
		StateDir: w.dir, Socket: "none", TrainerBinary: "none", SpoolBytes: 64 << 20, StagingBytes: 1 << 20, KeepEnded: 4,
	}, host.Deps{
		Journal: exits, Launcher: w, Registry: w, Tier: tier, Attribution: silent{w}, Counters: silent{w}, Log: zap.NewNop(),
		Restorer: &restore.Restorer{Registry: w, Tier: tier, Log: zap.NewNop()},
	})
	w.mu.Lock()
	w.host = h
	w.mu.Unlock()
	var devices []host.DeviceState
	for lane := range w.lanes {
		devices = append(devices, host.DeviceState{Health: device.Health{OK: true}, Device: device.Device{
			ID: fmt.Sprintf("cpu:%d", lane), Kind: device.CPULane, MemoryBytes: 1 << 30, HostMemory: true,
		}})
	}
	w.host.SetDevices(devices)
	yes := func() bool { return true }
	loop := session.New(w.conn, session.Identity{Name: "a", DataService: yes, Registry: yes}, w.host, func() {}, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.host.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	wg.Go(func() {
		select {
		case <-w.host.Recovered():
			if err := loop.Run(ctx); err != nil {
				w.t.Error(err)
			}
		case <-ctx.Done():
		}
	})
	w.stop = func() { cancel(); wg.Wait() }
}

// running says how many of the wanted attempts run.
func (w *world) running() int {
	w.mu.Lock()
	var fences []uint64
	for _, a := range w.desired {
		fences = append(fences, a.Fence)
	}
	w.mu.Unlock()
	n := 0
	for _, l := range w.host.Leases() {
		if l.Phase == host.Running && slices.Contains(fences, l.Fence) {
			n++
		}
	}
	return n
}

// settle waits until every wanted attempt runs.
func (w *world) settle() {
	w.t.Helper()
	for range 100000 {
		if w.running() == w.lanes {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	w.t.Fatal("the wanted attempts never ran")
}

// quickDir is a directory whose syncs cost little: what is tested is not the disk.
func quickDir(t *testing.T) string {
	t.Helper()
	base := ""
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		base = "/dev/shm"
	}
	dir, err := os.MkdirTemp(base, "agent")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
