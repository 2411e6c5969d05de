// Package lifecycle starts and stops a process: signals, exit codes, and a
// group of long-running members that stop in the reverse of the order in which
// they started, so that servers are gone before the pools they use.
package lifecycle

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// Exit codes of Main. An error with an ExitCode() int method chooses its own.
const (
	ExitOK          = 0
	ExitError       = 1
	ExitUsage       = 2
	ExitInterrupted = 130
)

// Main runs a process: ctx ends at SIGINT or SIGTERM, a second signal ends the
// process at once with ExitInterrupted. A nil error, a context.Canceled that
// follows a signal, and flag.ErrHelp exit 0; any other error is printed as
// "program: error" on stderr. Main never returns.
func Main(run func(ctx context.Context) error) {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	os.Exit(runWith(filepath.Base(os.Args[0]), os.Stderr, signals, os.Exit, run))
}

func runWith(program string, stderr io.Writer, signals <-chan os.Signal, exit func(int), run func(ctx context.Context) error) int {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	go func() {
		select {
		case s := <-signals:
			cancel(&SignalError{Signal: s})
		case <-ctx.Done():
			return
		}
		// A second signal is a person who does not want to wait for the drain.
		<-signals
		exit(ExitInterrupted)
	}()

	err := run(ctx)
	code := exitCode(ctx, err)
	if code != ExitOK {
		if _, werr := fmt.Fprintf(stderr, "%s: %v\n", program, err); werr != nil {
			return code
		}
	}
	return code
}

func exitCode(ctx context.Context, err error) int {
	var own interface{ ExitCode() int }
	var byUser *SignalError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return ExitOK
	case errors.As(context.Cause(ctx), &byUser) && (errors.Is(err, context.Canceled) || errors.As(err, &byUser)):
		return ExitOK
	case errors.As(err, &own):
		return own.ExitCode()
	}
	return ExitError
}

// SignalError is the cause of the context of Main after a signal.
type SignalError struct{ Signal os.Signal }

func (e *SignalError) Error() string { return "stopped by signal: " + e.Signal.String() }
