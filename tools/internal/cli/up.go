package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/launch"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

// launchFlags are what up and demo have in common.
type launchFlags struct {
	bin, dataDir, devices, laneMemory, policy, logLevel string
	lanes                                               int
	ports                                               []string
	standby                                             bool
}

func (f *launchFlags) register(cmd *cobra.Command, policy string) {
	flags := cmd.Flags()
	flags.StringVar(&f.bin, "bin", "", "directory of the programs (default: that of this one)")
	flags.StringVar(&f.dataDir, "data-dir", "", "directory of SYMBOL_TIMEFRAME.csv histories to serve beside the built-in SPX")
	flags.StringVar(&f.devices, "devices", "auto", "what the agent offers: auto (GPUs, else CPU lanes), nvml or cpu")
	flags.IntVar(&f.lanes, "cpu-lanes", 0, "CPU lanes to offer; 0 means one per core")
	flags.StringVar(&f.laneMemory, "cpu-lane-memory", "", "memory of each lane, such as 2GiB (default: the agent's)")
	flags.StringVar(&f.policy, "policy", policy, "retention policy: a file, builtin:default or builtin:development")
	flags.StringVar(&f.logLevel, "log-level", "", "log level of the services: debug, info, warn or error")
	flags.BoolVar(&f.standby, "standby", false, "run a second scheduler, which takes over when the first one dies")
	flags.StringArrayVar(&f.ports, "port", nil, "fix a listener's port, NAME=PORT, such as scheduler=7701; may be repeated")
}

func (f *launchFlags) options(state string, event func(launch.Event)) (launch.Options, error) {
	o := launch.Options{
		State: state, BinDir: f.bin, DataDir: f.dataDir, DeviceSource: f.devices, CPULanes: f.lanes, CPULaneMemory: f.laneMemory,
		LogLevel: f.logLevel, Policy: f.policy, Standby: f.standby, Ports: map[string]int{}, Event: event, Log: zap.NewNop(),
	}
	if f.policy != "" && !strings.HasPrefix(f.policy, "builtin:") {
		path, err := filepath.Abs(f.policy)
		if err != nil {
			return o, err
		}
		o.Policy = path
	}
	if f.devices != "auto" && f.devices != "nvml" && f.devices != "cpu" {
		return o, usageError{fmt.Errorf("--devices %q is none of auto, nvml, cpu", f.devices)}
	}
	for _, text := range f.ports {
		name, number, ok := strings.Cut(text, "=")
		port, err := strconv.Atoi(number)
		if !ok || err != nil || port < 1 || port > 65535 {
			return o, usageError{fmt.Errorf("--port %q is not NAME=PORT", text)}
		}
		o.Ports[name] = port
	}
	return o, nil
}

// announce prints what happens to the parts of a mesh.
func (a *app) announce(e launch.Event) {
	var line string
	switch e.Kind {
	case launch.Started:
		line = fmt.Sprintf("  %-12s ready", e.Unit)
	case launch.Restarted:
		line = fmt.Sprintf("  %-12s is back (process %d)", e.Unit, e.PID)
	case launch.Died:
		line = fmt.Sprintf("  %-12s ended: %v; trying again in %s", e.Unit, e.Err, e.Took)
	case launch.Swept:
		line = fmt.Sprintf("  %-12s of an earlier run (process %d) was still there and is ended", e.Unit, e.PID)
	case launch.Installing:
		line = fmt.Sprintf("  %-12s is not installed: getting it (about a minute) ...", e.Unit)
	default:
		return
	}
	// Progress for a person: a closed terminal must not stop the mesh.
	_, _ = fmt.Fprintln(a.err, line)
}

func (a *app) upCommand() *cobra.Command {
	var f launchFlags
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole mesh on this machine until Ctrl-C", Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := f.options(a.state, a.announce)
			if err != nil {
				return err
			}
			begun := time.Now()
			if _, err := fmt.Fprintf(a.err, "starting the mesh on %s\n", a.state); err != nil {
				return err
			}
			err = launch.Run(cmd.Context(), o, func(ctx context.Context, m *mesh.Mesh) error {
				if err := a.whereabouts(ctx, m, time.Since(begun)); err != nil {
					return err
				}
				<-ctx.Done()
				_, err := fmt.Fprintln(a.err, "stopping: running jobs go on from their last checkpoint at the next start")
				return err
			})
			if err == nil {
				_, err = fmt.Fprintln(a.err, "stopped")
			}
			return err
		},
	}
	f.register(cmd, "builtin:default")
	return cmd
}

// whereabouts prints where everything listens.
func (a *app) whereabouts(ctx context.Context, m *mesh.Mesh, took time.Duration) error {
	devices := "none reported yet"
	if s, err := a.connectTo(ctx, m); err == nil {
		if summary, err := waitForDevices(ctx, s); err == nil {
			devices = summary
		}
		if err := s.close(ctx); err != nil {
			return err
		}
	}
	t := newTable("SERVICE", "LISTENS ON", "PROTOCOL", "METRICS")
	for _, row := range [][3]string{
		{"scheduler", m.Scheduler, "gRPC, mutual TLS"}, {"registry", m.Registry, "gRPC, mutual TLS"},
		{"janitor", m.Janitor, "gRPC, mutual TLS"}, {"agent", m.Agent, "gRPC, mutual TLS"},
		{"mlflow", m.MLflow, "MLflow's REST API"}, {"dataservice", m.DataService, "HTTP"}, {"s3", m.S3, "S3 over TLS"}, {"otlp", m.OTLP, "OTLP gRPC"},
	} {
		metrics := "–"
		if address := m.Admin[row[0]]; address != "" {
			metrics = "http://" + address + "/metrics"
		}
		t.add(row[0], row[1], row[2], metrics)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\nThe mesh is up after %.1f s.\n\n", took.Seconds())
	if err := t.write(&b); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\ndevices    %s\nstate      %s\ndatabase   %s\n\n", devices, m.State, m.Database)
	state := ""
	if a.explicit {
		state = " --state " + m.State
	}
	fmt.Fprintf(&b, "Try, in another terminal:\n  trainyard%s submit tools/examples/bull.yaml --watch\n  trainyard%s agents\n", state, state)
	fmt.Fprintf(&b, "  grpcurl -cacert %s -cert %s -key %s %s list\n\nCtrl-C stops it.\n", m.Person.CA, m.Person.Cert, m.Person.Key, strings.Split(m.Scheduler, ",")[0])
	_, err := io.WriteString(a.out, b.String())
	return err
}

// devicePatience is how long up waits for the agent's first report.
const devicePatience = 10 * time.Second

func waitForDevices(ctx context.Context, s *session) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, devicePatience)
	defer cancel()
	for {
		answer, err := s.Fleet.ListAgents(ctx, &fleetv1.ListAgentsRequest{})
		if err != nil {
			return "", err
		}
		if summary := deviceSummary(answer.GetAgents()); summary != "" {
			return summary, nil
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// defaultReport is where the demo's report goes.
func defaultReport() string {
	if dir, err := os.Getwd(); err == nil {
		return filepath.Join(dir, "report.html")
	}
	return "report.html"
}
