// Package trainer runs one attempt of a training job: it opens the Train stream
// to the agent that started it, gets the features, runs the native learner or any
// command, and ends with a Finished frame.
//
// It is configured by its agent alone: the lease token comes by an inherited
// descriptor, the socket by the environment, all else in the Opened frame.
package trainer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/command"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/features"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/report"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/specialist"
)

// Config is what the agent passes by environment and descriptor.
type Config struct {
	// Socket is the agent's unix socket.
	Socket string
	// Token is the lease token.
	Token []byte
	// OTLPEndpoint gets the spans; empty exports none.
	OTLPEndpoint string
	LogLevel     string
	// Kernel names the learner's vector form; empty takes the best of the machine.
	Kernel string
}

// The environment variables of the contract with the agent.
const (
	envSocket   = "TRAINYARD_SOCKET"
	envTokenFD  = "TRAINYARD_TOKEN_FD"
	envOTLP     = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envLogLevel = "TRAINYARD_LOG_LEVEL"
	envKernel   = "TRAINYARD_KERNEL"
)

// maxToken is the contract's bound on a lease token.
const maxToken = 128

// FromEnvironment reads the configuration that the agent left, and takes the
// token out of the environment of every child. All problems come back at once.
func FromEnvironment() (Config, error) {
	c := Config{Socket: os.Getenv(envSocket), OTLPEndpoint: os.Getenv(envOTLP), LogLevel: os.Getenv(envLogLevel), Kernel: os.Getenv(envKernel)}
	var problems []error
	if c.Socket == "" {
		problems = append(problems, fmt.Errorf("%s is not set: a trainer is started by a gpu-agent, not by hand", envSocket))
	}
	fd, err := strconv.Atoi(os.Getenv(envTokenFD))
	if err != nil || fd < 3 {
		problems = append(problems, fmt.Errorf("%s=%q is not a descriptor above 2", envTokenFD, os.Getenv(envTokenFD)))
	} else if c.Token, err = readToken(fd); err != nil {
		problems = append(problems, fmt.Errorf("the lease token on descriptor %d: %w", fd, err))
	}
	for _, name := range []string{envSocket, envTokenFD} {
		problems = append(problems, os.Unsetenv(name))
	}
	return c, errors.Join(problems...)
}

func readToken(fd int) (token []byte, err error) {
	f := os.NewFile(uintptr(fd), "token")
	if f == nil {
		return nil, errors.New("not open")
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	token, err = io.ReadAll(io.LimitReader(f, maxToken+1))
	if err == nil && (len(token) < 16 || len(token) > maxToken) {
		err = fmt.Errorf("%d bytes: between 16 and %d", len(token), maxToken)
	}
	return token, err
}

// Run runs the attempt to its end. A training that failed is an error, so that
// the exit code says so too.
func Run(ctx context.Context, cfg Config) (err error) {
	t, err := telemetry.Start(ctx, telemetry.Config{Service: "trainer", OTLPEndpoint: cfg.OTLPEndpoint, LogLevel: cfg.LogLevel})
	if err != nil {
		return err
	}
	defer func() {
		flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		// A collector that is away must not turn a good training into a failure.
		if flushErr := t.Shutdown(flush); flushErr != nil {
			t.Log.Debug("spans were not flushed", zap.Error(flushErr))
		}
	}()
	client, a, err := report.Open(telemetry.FromEnviron(ctx), report.Options{Socket: cfg.Socket, Token: cfg.Token, Log: t.Log})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	spanCtx, span := t.Tracer("trainer").Start(telemetry.FromEnviron(ctx), "train")
	span.SetAttributes(attribute.String("trainyard.job_id", a.JobID), attribute.Int("trainyard.attempt", a.Attempt),
		attribute.Int64("trainyard.fence", int64(a.Fence)))
	defer span.End()
	log := t.Log.With(append(telemetry.LogFields(spanCtx), zap.String("job_id", a.JobID), zap.Int("attempt", a.Attempt),
		zap.Uint64("fence", a.Fence))...)
	ending, err := attempt(spanCtx, cfg, client, a, log)
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
		return err
	}
	span.SetAttributes(attribute.String("trainyard.outcome", ending.Message))
	finishCtx, cancel := report.FinishContext(spanCtx)
	defer cancel()
	if err := client.Finish(finishCtx, ending); err != nil {
		return err
	}
	if ending.Outcome == run.Failed {
		span.SetStatus(codes.Error, ending.Message)
		return fmt.Errorf("%s: %s", ending.Class, ending.Message)
	}
	log.Info("finished", zap.String("message", ending.Message))
	return nil
}

// attempt runs the job's runtime. Its context ends when the agent's stream is
// gone for good; a signal to this process becomes a Stop order, so that the
// training saves a checkpoint first.
func attempt(signals context.Context, cfg Config, client *report.Client, a *run.Assignment, log *zap.Logger) (run.Ending, error) {
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(signals))
	defer cancel(nil)
	unhook := context.AfterFunc(signals, func() { client.Interrupt("signal") })
	defer unhook()
	go func() {
		select {
		case <-client.Gone():
			cancel(client.Err())
		case <-ctx.Done():
		}
	}()
	if a.Command != nil {
		return command.Run(ctx, command.Job{Assignment: a, Log: log, Stdout: os.Stdout, Stderr: os.Stderr,
			TraceEnviron: telemetry.Environ(ctx)}, client)
	}
	source, err := features.New(features.Options{BaseURL: a.DataServiceURL, CacheDir: a.CacheDir, Log: log})
	if err != nil {
		return run.BadConfiguration([]market.Problem{{Field: "data_service_url", Description: err.Error()}}), nil
	}
	d := &data{source: source, client: client, log: log, every: pollEvery}
	began := time.Now()
	snapshot, ending, err := d.table(ctx, a.Native.Symbol, a.Native.Timeframe)
	if err != nil || snapshot == nil {
		return ending, err
	}
	stop := d.watch(ctx, snapshot)
	ending, err = specialist.Train(ctx, specialist.Job{Assignment: a, Table: snapshot.Table, Log: log, Kernel: cfg.Kernel,
		Loading: time.Since(began), Stale: snapshot.Stale}, client)
	stop()
	return ending, errors.Join(err, snapshot.Close())
}
