// Package registry is the source of truth for runs, metrics, checkpoints and models. It
// takes what agents ingest, proves checkpoints in the object store before they exist,
// keeps exactly one Production version per model with its whole history, and releases
// checkpoints to the janitor.
package registry

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/mlflowapi"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/mlflowmirror"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/registryapi"
)

// requestMemory is how long a request id is remembered.
const requestMemory = 7 * 24 * time.Hour

// Run serves until ctx ends.
func Run(ctx context.Context, cfg Config, version string) error {
	return run(ctx, cfg, version, nil)
}

// run is Run on a listener that is open already, or on cfg.Listen.
func run(ctx context.Context, cfg Config, version string, listener net.Listener) error {
	tel, err := telemetry.Start(ctx, telemetry.Config{Service: "registry", Version: version, OTLPEndpoint: cfg.OTLPEndpoint,
		LogLevel: cfg.LogLevel, AdminAddress: cfg.AdminListen})
	if err != nil {
		return err
	}
	var group lifecycle.Group
	group.OnStop("telemetry", tel.Shutdown)
	if err := build(ctx, cfg, tel, &group, listener); err != nil {
		tel.Log.Error("cannot start", zap.Error(err))
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = tel.Shutdown(stop) // the start's error matters more
		return err
	}
	return group.Run(ctx)
}

// build wires the parts in the order in which they start; they stop in reverse.
func build(ctx context.Context, cfg Config, tel *telemetry.Telemetry, group *lifecycle.Group, listener net.Listener) (err error) {
	group.Add("admin", tel.RunAdmin)

	objects, err := cfg.objects()
	if err != nil {
		return err
	}
	if err := objects.EnsureBucket(ctx); err != nil {
		return fmt.Errorf("object store: %w", err)
	}
	cold, err := cfg.coldStore(objects)
	if err != nil {
		return err
	}
	if err := cold.EnsureBucket(ctx); err != nil {
		return fmt.Errorf("cold tier: %w", err)
	}
	if err := pg.Migrate(ctx, cfg.DSN, postgres.Schema, postgres.Migrations); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, pg.Config{DSN: cfg.DSN, Schema: postgres.Schema, MaxConns: int32(cfg.MaxConns), Settings: postgres.Settings}, tel.Log)
	if err != nil {
		return err
	}
	group.OnStop("postgres", func(context.Context) error { pool.Close(); return nil })
	defer func() {
		if err != nil {
			pool.Close() // the group, which would close it, never runs
		}
	}()
	store := postgres.New(pool)
	tier, err := store.PrepareTier(ctx)
	if err != nil {
		return err
	}
	tel.Log.Info("storage ready", zap.String("tier", string(tier)), zap.String("artifacts", objects.Bucket()))

	// Before the first change: from here on each leaves a row for the mirror.
	var resting func() time.Duration
	if cfg.MLflow.Mirror != "" {
		mirror, err := mlflowmirror.New(ctx, mlflowmirror.Config{Store: store, Objects: objects, Log: tel.Log, Metrics: tel.Metrics, Target: cfg.MLflow.Mirror,
			Token: cfg.MLflow.MirrorToken, Timing: mlflowmirror.Timing{Lease: cfg.MLflow.MirrorLease, Request: cfg.MLflow.MirrorLease / 2}})
		if err != nil {
			return err
		}
		group.Add("mirror", mirror.Run)
		resting = mirror.Resting
	}
	committer, err := ingest.New(store, tel.Log, tel.Metrics)
	if err != nil {
		return err
	}
	watcher := postgres.NewWatcher(pool, tel.Log)
	group.Add("forget requests", func(ctx context.Context) error { return forget(ctx, store, tel.Log) })
	group.Add("watcher", watcher.Run)
	group.Add("rollups", func(ctx context.Context) error { return store.RunRolls(ctx, tel.Log) })
	group.Add("committer", committer.Run)
	if cfg.grpc() {
		if err := serveGRPC(cfg, tel, group, listener, registryapi.Deps{Store: store, Watcher: watcher, Objects: objects, Cold: cold, Committer: committer,
			Tracer: tel.Tracer("trainyard/registry"), Log: tel.Log, Metrics: tel.Metrics, MirrorResting: resting}); err != nil {
			return err
		}
	} else {
		tel.Log.Info("gRPC is not served: it needs tls-cert, tls-key and tls-ca")
	}
	if cfg.MLflow.Listen == "" {
		return nil
	}
	facade, err := net.Listen("tcp", cfg.MLflow.Listen)
	if err != nil {
		return fmt.Errorf("mlflow-listen: %w; is another process using this port?", err)
	}
	deps := mlflowapi.Deps{Store: store, Objects: objects, Log: tel.Log, Token: cfg.MLflow.AuthToken}
	if cfg.MLflow.Insecure {
		deps.Token = ""
	}
	if cfg.grpc() { // agents come with their certificates
		tls, err := identity.ServerTLS(identity.Files{Cert: cfg.TLSCert, Key: cfg.TLSKey, CA: cfg.TLSCA})
		if err != nil {
			return err
		}
		facade = mlflowapi.Both(facade, tls)
	}
	if cfg.MLflow.UI != "" {
		if deps.UI, err = os.OpenRoot(cfg.MLflow.UI); err != nil {
			return fmt.Errorf("mlflow-ui: %w; it names a directory with the index.html of MLflow's user interface", err)
		}
	}
	handler := mlflowapi.New(deps)
	group.Add("mlflow", func(ctx context.Context) error { return handler.Run(ctx, facade) })
	return nil
}

// serveGRPC adds the gRPC server.
func serveGRPC(cfg Config, tel *telemetry.Telemetry, group *lifecycle.Group, listener net.Listener, deps registryapi.Deps) error {
	tls, err := identity.ServerTLS(identity.Files{Cert: cfg.TLSCert, Key: cfg.TLSKey, CA: cfg.TLSCA})
	if err != nil {
		return err
	}
	if listener == nil {
		if listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return fmt.Errorf("listen: %w; is another process using this port?", err)
		}
	}
	server, err := rpcserver.New(rpcserver.Options{Name: "registry", Listener: listener, TLS: tls, Log: tel.Log, Metrics: tel.Metrics, Allow: registryapi.Allow()})
	if err != nil {
		return err
	}
	if err := registryapi.Register(server.GRPC(), deps); err != nil {
		return err
	}
	group.Add("grpc", server.Run)
	return nil
}

// forget trims the request ledger once an hour.
func forget(ctx context.Context, store *postgres.Store, log *zap.Logger) error {
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if err := store.ForgetRequests(ctx, now.Add(-requestMemory)); err != nil && ctx.Err() == nil {
				log.Warn("old request ids were not dropped; next try in an hour", zap.Error(err))
			}
		}
	}
}
