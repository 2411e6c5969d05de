// Package registry is the source of truth for runs, metrics, checkpoints and models. It
// takes what agents ingest, proves checkpoints in the object store before they exist,
// keeps exactly one Production version per model with its whole history, and releases
// checkpoints to the janitor.
package registry

import (
	"context"
	"fmt"
	"net"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/ingest"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/mlflowapi"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/registryapi"
)

// Config is everything a registry process is told.
type Config struct {
	Listen       string `conf:"listen" default:"127.0.0.1:0" usage:"host:port to serve gRPC on"`
	AdminListen  string `conf:"admin-listen" usage:"host:port for /metrics and, on loopback, pprof; empty serves neither"`
	TLSCert      string `conf:"tls-cert" required:"true" usage:"PEM file of this service's certificate"`
	TLSKey       string `conf:"tls-key" required:"true" usage:"PEM file of its key"`
	TLSCA        string `conf:"tls-ca" required:"true" usage:"PEM file of the authority that callers must have"`
	OTLPEndpoint string `conf:"otlp-endpoint" usage:"OTLP gRPC receiver for traces; empty exports nothing"`
	LogLevel     string `conf:"log-level" default:"info" usage:"debug, info, warn or error"`
	DSN          string `conf:"dsn" required:"true" secret:"true" usage:"Postgres connection string"`
	MaxConns     int    `conf:"max-connections" default:"16" usage:"bound of the Postgres pool"`
	S3           S3     `conf:"s3"`
	MLflow       MLflow `conf:"mlflow"`
}

// MLflow is the REST facade for MLflow's clients.
type MLflow struct {
	Listen string `conf:"listen" usage:"host:port to serve MLflow's REST API on; empty does not serve it"`
	Token  string `conf:"token" secret:"true" usage:"token that clients show (MLFLOW_TRACKING_TOKEN)"`
	Open   bool   `conf:"open" default:"false" usage:"serve MLflow's API without a token; for development on a loopback address"`
}

// S3 is the bucket that holds checkpoints and artifacts.
type S3 struct {
	Endpoint  string `conf:"endpoint" required:"true" usage:"host:port or https:// URL of the S3 server"`
	AccessKey string `conf:"access-key" required:"true" secret:"true" usage:"access key"`
	SecretKey string `conf:"secret-key" required:"true" secret:"true" usage:"secret key"`
	Bucket    string `conf:"bucket" default:"trainyard" usage:"bucket; made if it does not exist"`
	Region    string `conf:"region" usage:"region; empty means us-east-1"`
	CA        string `conf:"ca" usage:"PEM file of the S3 server's authority; empty means the system's"`
	Insecure  bool   `conf:"insecure" default:"false" usage:"speak http to the S3 server; only for a trusted network"`
}

// Validate checks what single fields cannot tell.
func (c *Config) Validate() []string {
	var problems []string
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		problems = append(problems, fmt.Sprintf("listen: %q is not host:port", c.Listen))
	}
	if c.MLflow.Listen != "" {
		host, _, err := net.SplitHostPort(c.MLflow.Listen)
		ip := net.ParseIP(host)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("mlflow-listen: %q is not host:port", c.MLflow.Listen))
		case c.MLflow.Open && host != "localhost" && (ip == nil || !ip.IsLoopback()):
			problems = append(problems, "mlflow-open: only allowed on a loopback address; set mlflow-token for "+c.MLflow.Listen)
		case !c.MLflow.Open && c.MLflow.Token == "":
			problems = append(problems, "mlflow-token: set it, or set mlflow-open for development on a loopback address")
		}
	}
	if c.MaxConns < 8 {
		problems = append(problems, "max-connections: at least 8 are needed: four commit at once, one listens")
	}
	return problems
}

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

	tls, err := identity.ServerTLS(identity.Files{Cert: cfg.TLSCert, Key: cfg.TLSKey, CA: cfg.TLSCA})
	if err != nil {
		return err
	}
	objects, err := objectstore.Open(objectstore.Config{Endpoint: cfg.S3.Endpoint, AccessKey: cfg.S3.AccessKey, SecretKey: cfg.S3.SecretKey,
		Bucket: cfg.S3.Bucket, Region: cfg.S3.Region, CA: cfg.S3.CA, Insecure: cfg.S3.Insecure})
	if err != nil {
		return err
	}
	if err := objects.EnsureBucket(ctx); err != nil {
		return fmt.Errorf("object store: %w", err)
	}
	if err := pg.Migrate(ctx, cfg.DSN, postgres.Schema, postgres.Migrations); err != nil {
		return err
	}
	pool, err := pg.Open(ctx, pg.Config{DSN: cfg.DSN, Schema: postgres.Schema, MaxConns: int32(cfg.MaxConns)}, tel.Log)
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
	tel.Log.Info("storage ready", zap.String("tier", string(tier)), zap.String("bucket", objects.Bucket()))

	committer, err := ingest.New(store, tel.Log, tel.Metrics)
	if err != nil {
		return err
	}
	watcher := postgres.NewWatcher(pool, tel.Log)
	if listener == nil {
		if listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return fmt.Errorf("listen: %w; is another process using this port?", err)
		}
	}
	server, err := rpcserver.New(rpcserver.Options{Name: "registry", Listener: listener, TLS: tls, Log: tel.Log, Metrics: tel.Metrics, Allow: registryapi.Allow()})
	if err != nil {
		return err
	}
	if err := registryapi.Register(server.GRPC(), registryapi.Deps{Store: store, Watcher: watcher, Objects: objects, Committer: committer,
		Tracer: tel.Tracer("trainyard/registry"), Log: tel.Log, Metrics: tel.Metrics}); err != nil {
		return err
	}
	group.Add("forget requests", func(ctx context.Context) error { return forget(ctx, store, tel.Log) })
	group.Add("watcher", watcher.Run)
	group.Add("committer", committer.Run)
	group.Add("grpc", server.Run)
	if cfg.MLflow.Listen == "" {
		return nil
	}
	facade, err := net.Listen("tcp", cfg.MLflow.Listen)
	if err != nil {
		return fmt.Errorf("mlflow-listen: %w; is another process using this port?", err)
	}
	token := cfg.MLflow.Token
	if cfg.MLflow.Open {
		token = ""
	}
	handler := mlflowapi.New(mlflowapi.Deps{Store: store, Objects: objects, Log: tel.Log, Token: token})
	group.Add("mlflow", func(ctx context.Context) error { return handler.Run(ctx, facade) })
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
