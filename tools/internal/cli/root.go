// Package cli is the command that a person types: it starts a mesh, submits and
// watches jobs, promotes models, sweeps checkpoints and shows what happened.
//
// Commands speak to the services over the same contracts as every SDK, with the
// person's certificate that the launcher made. Every list has a table for people
// and `-o json` for programs.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/term"

	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

// app is what the commands share.
type app struct {
	out, err io.Writer
	// tty is true when out is a terminal that can be redrawn.
	tty bool

	state    string
	explicit bool
	// scheduler replaces the mesh's.
	scheduler string
	output    string
}

// usageError is a wrong command line.
type usageError struct{ error }

func (usageError) ExitCode() int { return 2 }

func (e usageError) Unwrap() error { return e.error }

// Run executes a command line without the program's name.
func Run(ctx context.Context, args []string, out, errOut io.Writer) error {
	a := &app{out: out, err: errOut}
	if file, ok := out.(*os.File); ok {
		a.tty = term.IsTerminal(int(file.Fd())) && os.Getenv("TERM") != "dumb"
	}
	root := a.root()
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err != nil && strings.HasPrefix(err.Error(), "unknown command") {
		return usageError{err} // cobra has no type for it
	}
	return err
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "trainyard",
		Short: "Train, register, promote and keep models",
		Long: "trainyard runs a training mesh on this machine (up, demo) and talks to a running one.\n" +
			"Where a JOB is asked for, its id, the beginning or end of its id, or its name will do.",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			a.explicit = cmd.Flags().Changed("state")
			if a.output != "table" && a.output != "json" {
				return usageError{fmt.Errorf("--output %q is neither table nor json", a.output)}
			}
			if a.scheduler != "" {
				if err := rpcclient.CheckTarget(a.scheduler); err != nil {
					return usageError{fmt.Errorf("--scheduler: %w", err)}
				}
			}
			if a.state == "" {
				var err error
				a.state, err = mesh.DefaultState()
				return err
			}
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&a.state, "state", "", "state directory of the mesh (default $"+mesh.EnvState+", else a directory of this user)")
	root.PersistentFlags().StringVar(&a.scheduler, "scheduler", "", "host:port of the scheduler, or of all its replicas with commas between them (default the mesh's)")
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "table", "table or json")
	root.AddCommand(
		a.upCommand(), a.demoCommand(),
		a.submitCommand(), a.jobsCommand(), a.jobCommand(), a.watchCommand(), a.explainCommand(), a.logsCommand(),
		a.cancelCommand(), a.pauseCommand(), a.resumeCommand(), a.reprioritizeCommand(),
		a.arrayCommand(), a.graphCommand(), a.scheduleCommand(), a.quotaCommand(), a.snapshotCommand(),
		a.cordonCommand(), a.drainCommand(), a.uncordonCommand(),
		a.runsCommand(), a.metricsCommand(), a.checkpointsCommand(),
		a.importCommand(), a.modelsCommand(), a.promoteCommand(), a.rollbackCommand(), a.resolveCommand(), a.pullCommand(), a.historyCommand(), a.mirrorCommand(),
		a.sweepCommand(), a.reportCommand(), a.restoreCommand(), a.pinCommand(), a.holdCommand(), a.janitorCommand(), a.agentsCommand(), a.traceCommand(),
	)
	return root
}

// arguments is cobra's check with the exit code of a wrong command line.
func arguments(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w\nusage: %s", err, cmd.UseLine())}
		}
		return nil
	}
}

// session is a command's connection to a mesh.
type session struct {
	at *mesh.Mesh
	*mesh.Clients
	tracer    trace.Tracer
	telemetry *telemetry.Telemetry
}

// connect finds the mesh and makes its clients.
func (a *app) connect(ctx context.Context) (*session, error) {
	m, err := mesh.Find(a.state, a.explicit)
	if err != nil {
		return nil, err
	}
	return a.connectTo(ctx, m)
}

func (a *app) connectTo(ctx context.Context, m *mesh.Mesh) (*session, error) {
	if a.scheduler != "" {
		other := *m
		other.Scheduler = a.scheduler
		m = &other
	}
	clients, err := m.Connect(nil)
	if err != nil {
		return nil, err
	}
	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "trainyard", OTLPEndpoint: m.OTLP, LogLevel: "error"})
	if err != nil {
		return nil, errors.Join(err, clients.Close())
	}
	return &session{at: m, Clients: clients, tracer: tel.Tracer("trainyard/cli"), telemetry: tel}, nil
}

func (s *session) close(ctx context.Context) error {
	return errors.Join(s.telemetry.Shutdown(context.WithoutCancel(ctx)), s.Clients.Close())
}

// with runs a command's body on a connection.
func (a *app) with(body func(ctx context.Context, s *session, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		s, err := a.connect(cmd.Context())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.close(cmd.Context())) }()
		return friendly(body(cmd.Context(), s, args))
	}
}

// traced runs a change under a span of its own, the root of what it causes.
// Reads have none: they would bury the jobs' traces.
func (s *session) traced(ctx context.Context, name string, change func(ctx context.Context) error) error {
	ctx, span := s.tracer.Start(ctx, name)
	defer span.End()
	err := change(ctx)
	if err != nil {
		span.RecordError(err)
	}
	return err
}
