// Package gpuagent runs one host of the fleet: its devices, the leases on them,
// the trainer processes, and everything that those produce on its way to the
// registry. It decides nothing about what runs; it is the scheduler's hand.
package gpuagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/logapi"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/metrics"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/reach"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/registryclient"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/restore"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/session"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/trainapi"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/watchdog"
)

// Run serves until ctx ends. Trainers go on running for the next agent.
func Run(ctx context.Context, cfg Config, version string) error {
	tel, err := telemetry.Start(ctx, telemetry.Config{
		Service: "gpu-agent", Version: version, OTLPEndpoint: cfg.OTLPEndpoint, LogLevel: cfg.LogLevel, AdminAddress: cfg.AdminListen,
	})
	if err != nil {
		return err
	}
	var group lifecycle.Group
	group.OnStop("telemetry", tel.Shutdown)
	a := &agent{cfg: cfg, version: version, tel: tel, group: &group}
	if err := a.build(); err != nil {
		tel.Log.Error("cannot start", zap.Error(err))
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		return errors.Join(err, a.close(), tel.Shutdown(stop))
	}
	return group.Run(ctx)
}

// agent is what build has put together so far.
type agent struct {
	cfg     Config
	version string
	tel     *telemetry.Telemetry
	group   *lifecycle.Group
	closers []func() error
}

// keep closes something after all that is added later, whether the agent runs
// or fails to start.
func (a *agent) keep(name string, fn func() error) {
	a.closers = append(a.closers, fn)
	a.group.OnStop(name, func(context.Context) error { return fn() })
}

func (a *agent) close() error {
	var errs []error
	for i := len(a.closers) - 1; i >= 0; i-- {
		errs = append(errs, a.closers[i]())
	}
	return errors.Join(errs...)
}

// build wires the parts in the order in which they start; they stop in reverse.
func (a *agent) build() error {
	if err := a.paths(); err != nil {
		return err
	}
	a.group.Add("admin", a.tel.RunAdmin)
	lockPath, err := a.lock()
	if err != nil {
		return err
	}
	groups, lanes, err := openGroups(a.cfg, a.tel.Log)
	if err != nil {
		return err
	}
	source, err := openSource(a.cfg, lanes, a.tel.Log)
	if err != nil {
		return err
	}
	a.keep("devices", source.Close)
	dog, err := watchdog.New(source, a.tel.Log)
	if err != nil {
		return err
	}
	counters, err := metrics.New(a.tel.Metrics, a.cfg.AgentName)
	if err != nil {
		return err
	}
	exits, err := journal.Open(disk.OS(), filepath.Join(a.cfg.StateDir, "journal"))
	if err != nil {
		return fmt.Errorf("the exit journal: %w", err)
	}
	bin, err := disk.OpenBin(filepath.Join(a.cfg.StateDir, "bin"))
	if err != nil {
		return err
	}
	a.keep("bin", bin.Close)
	tier, err := restore.NewTier(filepath.Join(a.cfg.StateDir, "tier"), int64(a.cfg.TierSize), bin)
	if err != nil {
		return err
	}
	files := identity.Files{Cert: a.cfg.TLSCert, Key: a.cfg.TLSKey, CA: a.cfg.TLSCA}
	schedulerTLS, err := identity.ClientTLS(files, identity.RoleScheduler)
	if err != nil {
		return err
	}
	registryTLS, err := identity.ClientTLS(files, identity.RoleRegistry)
	if err != nil {
		return err
	}
	schedulerConn, err := rpcclient.Dial(a.cfg.Scheduler, rpcclient.Options{TLS: schedulerTLS, Log: a.tel.Log})
	if err != nil {
		return err
	}
	a.keep("scheduler connection", schedulerConn.Close)
	registryConn, err := rpcclient.Dial(a.cfg.Registry, rpcclient.Options{TLS: registryTLS, Log: a.tel.Log})
	if err != nil {
		return err
	}
	a.keep("registry connection", registryConn.Close)
	transfers, err := transferClient(a.cfg.S3CA)
	if err != nil {
		return err
	}
	registry := registryclient.New(registryConn, transfers, a.cfg.AgentName, a.tel.Log)

	proxy, err := a.trackProxy(files, counters)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	h := host.New(host.Settings{
		StateDir: a.cfg.StateDir, Socket: a.cfg.Socket, TrainerBinary: a.cfg.TrainerBinary, AgentLock: lockPath,
		TrainerEnv: a.trainerEnv(), OrphanTimeout: a.cfg.OrphanTimeout, LogBytes: int64(a.cfg.LogSize),
		SpoolBytes: int64(a.cfg.SpoolSize), StagingBytes: int64(a.cfg.StagingSize), WorkBytes: int64(a.cfg.WorkSize),
		ShareTensorsFrom: int64(a.cfg.ShareTensorsFrom),
		SettleTime:       a.cfg.SettleTime, KeepEnded: a.cfg.KeepEnded, MPSPipe: a.cfg.MPSPipe, TrackingURL: proxy.url(),
	}, host.Deps{
		Journal: exits, Launcher: processes{&launch.Launcher{Program: program}},
		Registry: registry, Tier: tier, Bin: bin, Attribution: dog, Groups: groups, Counters: counters, Log: a.tel.Log,
		Restorer: &restore.Restorer{Registry: registry, Tier: tier, Log: a.tel.Log, Patience: 10 * time.Second, Corrupt: counters.CheckpointCorrupt},
	})
	proxy.host.Store(h)
	dog.ReadDevices(h)
	counters.Watch(h.Snapshot)

	trainers, err := a.trainServer(h, counters)
	if err != nil {
		return err
	}
	people, address, err := a.peopleServer(h, files)
	if err != nil {
		return err
	}
	reachable := reach.New(a.cfg.DataServiceURL, registryConn)
	total, _, err := procfs.Memory()
	if err != nil {
		return err
	}
	synchronize := session.New(schedulerConn, session.Identity{
		Name: a.cfg.AgentName, Incarnation: uuid.NewString(), Version: a.version, Address: address,
		CPUMillis: int64(runtime.NumCPU()) * 1000, MemoryBytes: total, Labels: a.cfg.Labels,
		DataService: reachable.DataService, Registry: reachable.Registry,
	}, h, counters.Contacted, a.tel.Log)

	a.group.Add("host", h.Run)
	a.group.Add("accounts", counters.Run)
	a.group.Add("watchdog", func(ctx context.Context) error { return dog.Run(ctx, h) })
	a.group.Add("trainers", after(h.Recovered(), trainers.Run))
	if proxy.Proxy != nil {
		a.group.Add("mlflow proxy", after(h.Recovered(), proxy.Run))
	}
	a.group.Add("reach", reachable.Run)
	a.group.Add("people", people.Run)
	a.group.Add("session", after(h.Recovered(), synchronize.Run))
	return nil
}

// after delays a member until another has said that it is ready.
func after(ready <-chan struct{}, run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ready:
			return run(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// paths completes what the configuration left open.
func (a *agent) paths() error {
	var err error
	// Trainers run elsewhere: what they are told must not depend on a directory.
	for _, path := range []*string{&a.cfg.StateDir, &a.cfg.TrainerBinary} {
		if *path, err = filepath.Abs(*path); err != nil {
			return err
		}
	}
	if a.cfg.Socket == "" {
		a.cfg.Socket = filepath.Join(a.cfg.StateDir, "agent.sock")
	}
	if a.cfg.CacheDir == "" {
		a.cfg.CacheDir = filepath.Join(a.cfg.StateDir, "cache")
	}
	if a.cfg.AgentName == "" {
		if a.cfg.AgentName, err = os.Hostname(); err != nil {
			return err
		}
	}
	return errors.Join(disk.OS().MkdirAll(a.cfg.StateDir), disk.OS().MkdirAll(a.cfg.CacheDir))
}

// lock takes the state directory for this process. Supervisors watch the lock
// to learn whether an agent lives; their looks are short, so it is tried for a while.
func (a *agent) lock() (string, error) {
	path := filepath.Join(a.cfg.StateDir, "agent.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	for range 50 {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			a.keep("state directory", f.Close)
			return path, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return "", errors.Join(fmt.Errorf("state-dir %s is in use by another agent", a.cfg.StateDir), f.Close())
}

// trainerEnv is what every trainer's environment gets beside its own.
func (a *agent) trainerEnv() []string {
	env := []string{"TRAINYARD_LOG_LEVEL=" + a.cfg.LogLevel}
	if a.cfg.OTLPEndpoint != "" {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+otlpURL(a.cfg.OTLPEndpoint))
	}
	return env
}

// otlpURL gives a trace endpoint the form that OpenTelemetry defines for the
// variable: any program of a job may read it, not only the native trainer.
func otlpURL(endpoint string) string {
	if strings.Contains(endpoint, "://") {
		return endpoint
	}
	return "http://" + endpoint
}

func (a *agent) trainServer(h *host.Host, counters *metrics.Metrics) (*rpcserver.Server, error) {
	listener, err := trainapi.Listen(a.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("the trainers' socket: %w", err)
	}
	server, err := rpcserver.New(rpcserver.Options{
		Name: "gpu-agent/trainers", Listener: listener, Authenticate: trainapi.Authenticate, Log: a.tel.Log, Allow: trainapi.Allow,
		MaxReceive: trainapi.MaxFrame, Transport: trainapi.Transport(),
		// A Train stream has no end of its own, and trainers reconnect.
		Drain: 200 * time.Millisecond,
	})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	trainv1.RegisterTrainServiceServer(server.GRPC(), trainapi.New(trainapi.Settings{
		DataServiceURL: a.cfg.DataServiceURL, CacheDir: a.cfg.CacheDir, OrphanTimeout: a.cfg.OrphanTimeout,
	}, h, counters.TrainRefused, a.tel.Log))
	return server, nil
}

func (a *agent) peopleServer(h *host.Host, files identity.Files) (*rpcserver.Server, string, error) {
	tls, err := identity.ServerTLS(files)
	if err != nil {
		return nil, "", err
	}
	listener, err := net.Listen("tcp", a.cfg.Listen)
	if err != nil {
		return nil, "", fmt.Errorf("listen: %w; is another process using this port?", err)
	}
	server, err := rpcserver.New(rpcserver.Options{
		Name: "gpu-agent", Listener: listener, TLS: tls, Log: a.tel.Log, Metrics: a.tel.Metrics, Allow: logapi.Allow, Drain: time.Second,
	})
	if err != nil {
		return nil, "", errors.Join(err, listener.Close())
	}
	trainv1.RegisterLogServiceServer(server.GRPC(), logapi.New(h))
	return server, listener.Addr().String(), nil
}
