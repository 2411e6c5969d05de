// Package launch runs the whole mesh on one machine: a private Postgres, an S3
// server, the data service, a trace receiver, the five services and an agent,
// each in a process of its own under supervision.
//
// Everything is under one state directory and nothing outlives the launcher:
// the kernel kills the children of a launcher that was killed, trainers end by
// themselves, and the next start ends what is left all the same. A second mode
// with every service in one process was rejected: it would be another product
// than the one a fleet runs.
package launch

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3server"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
	"github.com/ultrathink-pilot/trainyard/tools/internal/tracefile"
)

// Options of a mesh. The zero value of every field but State has a default.
type Options struct {
	// State is the directory of everything; absolute.
	State string
	// BinDir has the programs; empty means the directory of this one.
	BinDir string
	// DataDir has CSV histories to serve beside the built-in one.
	DataDir string
	// DeviceSource is auto, nvml or cpu; empty means auto.
	DeviceSource string
	// CPULanes is how many CPU lanes the agent offers; 0 means one per core.
	CPULanes int
	// CPULaneMemory is each lane's memory, such as "2GiB"; empty means the agent's default.
	CPULaneMemory string
	// Policy is the janitor's retention policy: a file, builtin:default or
	// builtin:development; empty means the janitor's default.
	Policy string
	// Standby runs a second scheduler, which leads when the first one dies.
	Standby bool
	// Ports fixes ports by listener name; the others are chosen free and kept.
	Ports map[string]int
	// LogLevel of the services; empty means info.
	LogLevel string
	// Event hears what happens; nil means nobody does.
	Event func(Event)
	// Log is for the embedded servers; nil means nowhere.
	Log *zap.Logger
}

// Kind is what happened to a part of the mesh.
type Kind int

// The kinds of events.
const (
	// Started: it answers for the first time.
	Started Kind = iota
	// Died: it ended by itself, or could not be started again; Took is the pause
	// before the next attempt.
	Died
	// Restarted: it answers again.
	Restarted
	// Swept: a process that an earlier run left was ended.
	Swept
	// Installing: something is being looked for or installed that takes time.
	Installing
)

// Event is something that happened to a part of the mesh.
type Event struct {
	Unit string
	Kind Kind
	PID  int
	Took time.Duration
	Err  error
}

// postgresUnit is ended by other signals than the rest.
const postgresUnit = "postgres"

const (
	database  = "trainyard"
	bucket    = "trainyard"
	agentName = "local"
)

// standby is the unit of a second scheduler.
const standby = "standby"

// programs are the service binaries, by unit name.
var programs = map[string]string{
	"dataservice": "dataservice", "registry": "registry", "scheduler": "scheduler",
	"janitor": "checkpoint-janitor", "agent": "gpu-agent", standby: "scheduler",
}

// listeners are the names that Ports knows.
var listeners = []string{
	"otlp", "s3", "dataservice", "registry", "mlflow", "scheduler", standby, "janitor", "agent",
	"dataservice-admin", "registry-admin", "scheduler-admin", standby + "-admin", "janitor-admin", "agent-admin",
}

// launcher is one run.
type launcher struct {
	Options
	bin     string
	files   map[identity.Role]identity.Files
	address map[string]string
	records *records
	sup     *supervisor
	// dsn and store are set by the first start of Postgres and of the S3 server. A
	// restart comes back under the same address with the same keys.
	dsn   string
	store *s3server.Server
}

// Run starts the mesh, calls use when everything answers, and stops everything
// in reverse order when use returns or ctx ends. It returns use's error joined
// with what went wrong while stopping. Nothing is left running in any case.
func Run(ctx context.Context, o Options, use func(ctx context.Context, m *mesh.Mesh) error) (err error) {
	l := &launcher{Options: o}
	if l.Event == nil {
		l.Event = func(Event) {}
	}
	if l.Log == nil {
		l.Log = zap.NewNop()
	}
	unlock, err := lockState(l.State)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := l.prepare(); err != nil {
		return err
	}
	l.sup = &supervisor{event: l.Event, started: func(name string, pid int) {
		if pid == os.Getpid() {
			return
		}
		if err := l.records.put(name, pid); err != nil {
			l.Log.Warn("process not recorded", zap.String("unit", name), zap.Error(err))
		}
	}}
	defer func() { err = errors.Join(err, l.stop()) }()
	m, err := l.start(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil // Stopped by a person before it was up.
		}
		return err
	}
	if err := m.Write(); err != nil {
		return fmt.Errorf("write %s: %w", mesh.FileName, err)
	}
	defer func() { err = errors.Join(err, m.Remove()) }()
	return use(ctx, m)
}

// prepare does everything that can fail before a process is started.
func (l *launcher) prepare() (err error) {
	names := []string{"trainer", "versitygw"}
	for unit, program := range programs {
		if unit != standby {
			names = append(names, program)
		}
	}
	if l.bin, err = findPrograms(l.BinDir, names); err != nil {
		return err
	}
	if l.DataDir != "" {
		if l.DataDir, err = filepath.Abs(l.DataDir); err != nil {
			return err
		}
		if info, err := os.Stat(l.DataDir); err != nil || !info.IsDir() {
			return fmt.Errorf("--data-dir %s is not a directory", l.DataDir)
		}
	}
	if l.records, err = openRecords(l.State); err != nil {
		return err
	}
	if err := l.records.sweep(l.Event); err != nil {
		return err
	}
	kept, err := openPorts(l.State, l.Ports)
	if err != nil {
		return err
	}
	if err := kept.unknownFixed(listeners); err != nil {
		return err
	}
	l.address = map[string]string{}
	for _, name := range listeners {
		if l.address[name], err = kept.address(name); err != nil {
			return err
		}
	}
	if err := kept.write(); err != nil {
		return err
	}
	return l.issue()
}

// issue makes the development authority and a certificate for each role.
func (l *launcher) issue() error {
	authority, err := identity.NewAuthority(filepath.Join(l.State, "certs"))
	if err != nil {
		return fmt.Errorf("development authority: %w", err)
	}
	l.files = map[identity.Role]identity.Files{}
	for role, name := range map[identity.Role]string{
		identity.RoleScheduler: "scheduler", identity.RoleRegistry: "registry", identity.RoleJanitor: "janitor",
		identity.RoleAgent: agentName, identity.RolePerson: person(), identity.RoleInference: "inference",
	} {
		if l.files[role], err = authority.Issue(role, name); err != nil {
			return fmt.Errorf("certificate of %s: %w", role, err)
		}
	}
	return nil
}

// start brings the stages up and describes the result.
func (l *launcher) start(ctx context.Context) (*mesh.Mesh, error) {
	self, err := mesh.ProcessOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	traces := filepath.Join(l.State, "traces.jsonl")
	if err := l.sup.up(ctx, l.receiver(traces)); err != nil {
		return nil, err
	}
	if err := l.sup.up(ctx, l.postgres(), l.objectStore(), l.dataService()); err != nil {
		return nil, err
	}
	if err := l.sup.up(ctx, append(l.schedulers(), l.registry())...); err != nil {
		return nil, err
	}
	if err := l.sup.up(ctx, l.janitor(), l.agent()); err != nil {
		return nil, err
	}
	admin := map[string]string{}
	for name := range programs {
		if name == standby && !l.Standby {
			continue
		}
		admin[name] = l.address[name+"-admin"]
	}
	return &mesh.Mesh{
		State: l.State, Launcher: self, StartTime: time.Now().UTC(),
		Scheduler: l.schedulerList(), Registry: l.address["registry"], Janitor: l.address["janitor"], Agent: l.address["agent"],
		DataService: "http://" + l.address["dataservice"], MLflow: "http://" + l.address["mlflow"], S3: l.store.Endpoint, S3CA: l.store.CA, Database: l.dsn,
		OTLP: l.address["otlp"], TraceFile: traces, Admin: admin, Person: l.files[identity.RolePerson],
	}, nil
}

// stop ends the parts in reverse order, then the trainers that the agent left
// for a successor that will not come.
func (l *launcher) stop() error {
	err := errors.Join(l.sup.down(), endTrainers(l.State))
	if err == nil {
		err = l.records.clear()
	}
	return err
}

// receiver is the trace receiver, which runs in this process: it has to outlive
// every service that exports to it.
func (l *launcher) receiver(traces string) *unit {
	return &unit{name: "otlp", start: func(context.Context) (child, error) {
		listener, err := net.Listen("tcp", l.address["otlp"])
		if err != nil {
			return nil, err
		}
		r, err := tracefile.NewReceiver(listener, traces)
		if err != nil {
			return nil, errors.Join(err, listener.Close())
		}
		ctx, cancel := context.WithCancel(context.Background())
		c := &inProcess{cancel: cancel, done: make(chan struct{})}
		go func() {
			defer close(c.done)
			c.err = r.Run(ctx)
		}()
		return c, nil
	}}
}

// inProcess is a part that is no process of its own.
type inProcess struct {
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func (c *inProcess) PID() int              { return os.Getpid() }
func (c *inProcess) Done() <-chan struct{} { return c.done }
func (c *inProcess) Err() error            { return c.err }

func (c *inProcess) Stop(context.Context) error {
	c.cancel()
	<-c.done
	return c.err
}

// lanes is how many CPU lanes the agent offers.
func (l *launcher) lanes() int {
	if l.CPULanes > 0 {
		return l.CPULanes
	}
	return runtime.NumCPU()
}
