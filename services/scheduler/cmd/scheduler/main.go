// Command scheduler runs the scheduler service.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/scheduler"
)

func main() { lifecycle.Main(run) }

func run(ctx context.Context) (err error) {
	var c scheduler.Config
	if err := config.Load("scheduler", &c, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	t, err := telemetry.Start(ctx, telemetry.Config{Service: "scheduler", OTLPEndpoint: c.OTLPEndpoint, LogLevel: c.LogLevel, AdminAddress: c.AdminListen})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.Shutdown(context.WithoutCancel(ctx))) }()
	lis, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w; choose another port with --listen", c.Listen, err)
	}
	s, err := scheduler.New(ctx, c, scheduler.Deps{Listener: lis, Telemetry: t})
	if err != nil {
		return errors.Join(err, lis.Close())
	}
	return s.Run(ctx)
}
