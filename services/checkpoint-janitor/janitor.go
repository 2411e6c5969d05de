// Package janitor is the checkpoint-janitor: it keeps the checkpoint store small
// and never deletes the wrong checkpoint. It plans by a written policy, explains
// every decision, and deletes only what the registry has released twice.
package janitor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/archive"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/janitorapi"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/metrics"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/notify"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/planning"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/registryapi"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/schedule"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/scrub"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/tiers"
)

// Service is the name in configuration, logs and metrics.
const Service = "checkpoint-janitor"

// Config of the service.
type Config struct {
	Listen       string        `conf:"listen" default:"127.0.0.1:0" usage:"host:port to serve on"`
	AdminListen  string        `conf:"admin-listen" usage:"host:port for metrics; empty serves none"`
	TLSCert      string        `conf:"tls-cert" required:"true" usage:"PEM file with this service's certificate"`
	TLSKey       string        `conf:"tls-key" required:"true" usage:"PEM file with its key"`
	TLSCA        string        `conf:"tls-ca" required:"true" usage:"PEM file with the certificate authority"`
	OTLPEndpoint string        `conf:"otlp-endpoint" usage:"host:port of an OTLP gRPC receiver; empty exports no traces"`
	LogLevel     string        `conf:"log-level" default:"info" usage:"debug, info, warn or error"`
	DSN          config.Secret `conf:"dsn" required:"true" secret:"true" usage:"Postgres connection string"`
	S3           S3Config      `conf:"s3"`
	Registry     string        `conf:"registry" required:"true" usage:"host:port of the registry"`
	Policy       string        `conf:"policy" default:"builtin:default" usage:"retention policy file, builtin:default or builtin:development"`
	Interval     time.Duration `conf:"interval" default:"1h" usage:"time between scheduled sweeps; 0 sweeps only on demand"`
	Capacity     config.Bytes  `conf:"capacity" default:"0B" usage:"capacity of the store for alerts and the forecast; 0 means not known"`
	CapacityPath string        `conf:"capacity-path" usage:"path on the store's disk, where this host can see it: the disk is watched in place of a fixed capacity"`
	Hold         time.Duration `conf:"hold" default:"720h" usage:"how long a person's restore protects a checkpoint"`
	Scratch      string        `conf:"scratch" usage:"directory for files being archived or drilled, with room for twice the largest; empty is the system's"`
	Webhook      config.Secret `conf:"report-webhook" secret:"true" usage:"URL that gets the daily report as JSON; empty sends none"`
	WebhookToken config.Secret `conf:"report-webhook-token" secret:"true" usage:"bearer token for the webhook"`
	ReportFile   string        `conf:"report-file" usage:"file for the daily report; the ending .html, .json or .txt chooses the form; empty writes none"`
}

// S3Config says where the checkpoints are.
type S3Config struct {
	Endpoint   string        `conf:"endpoint" required:"true" usage:"host:port or URL of the S3 server"`
	AccessKey  string        `conf:"access-key" required:"true" usage:"S3 access key"`
	SecretKey  config.Secret `conf:"secret-key" required:"true" secret:"true" usage:"S3 secret key"`
	Bucket     string        `conf:"bucket" default:"trainyard" usage:"bucket of checkpoints and artifacts"`
	ColdBucket string        `conf:"cold-bucket" usage:"bucket of archived checkpoints, the registry's; empty means the same, below cold/"`
	Region     string        `conf:"region" default:"us-east-1" usage:"region of the bucket"`
	CA         string        `conf:"ca" usage:"PEM file with the S3 server's authority; empty means the system's"`
	Insecure   bool          `conf:"insecure" usage:"speak http, for a network that is itself trusted"`
}

func (c S3Config) open(bucket string) (*objectstore.Store, error) {
	return objectstore.Open(objectstore.Config{Endpoint: c.Endpoint, AccessKey: c.AccessKey, SecretKey: c.SecretKey.Reveal(), Bucket: bucket,
		Region: c.Region, CA: c.CA, Insecure: c.Insecure})
}

// Validate reports what single fields cannot show.
func (c Config) Validate() []string {
	var out []string
	if c.Interval < 0 {
		out = append(out, "interval is negative; use 0 to sweep only on demand")
	}
	if c.Interval > 0 && c.Interval < time.Second {
		out = append(out, "interval is shorter than a second; a sweep reads the whole catalogue")
	}
	if c.Capacity > 0 && c.CapacityPath != "" {
		out = append(out, "capacity and capacity-path are both set; the disk has its own capacity")
	}
	if c.Hold <= 0 {
		out = append(out, "hold must be positive, or the next sweep undoes every restore")
	}
	if hook := c.Webhook.Reveal(); hook != "" {
		if problem := notify.Check(hook); problem != "" {
			out = append(out, problem)
		}
	}
	if c.Scratch != "" {
		if info, err := os.Stat(c.Scratch); err != nil || !info.IsDir() {
			out = append(out, fmt.Sprintf("scratch %q is no directory", c.Scratch))
		}
	}
	if c.ReportFile != "" && !schedule.KnownForm(c.ReportFile) {
		out = append(out, fmt.Sprintf("report-file %q must end in .html, .json or .txt", c.ReportFile))
	}
	return out
}

// Deps are what the outside may provide.
type Deps struct {
	// Listener replaces Config.Listen when not nil.
	Listener net.Listener
	// Version is shown in traces.
	Version string
}

// Janitor is the service, ready to run.
type Janitor struct {
	group lifecycle.Group
	// Address is where it serves.
	Address string
}

// New opens everything the service needs. What it has opened is closed again
// when it fails.
func New(ctx context.Context, cfg Config, deps Deps) (_ *Janitor, err error) {
	policy, policyText, err := policyfile.Load(cfg.Policy)
	if err != nil {
		return nil, err
	}
	j := &Janitor{}
	defer func() {
		if err != nil {
			// A group whose context has ended only runs its closers.
			ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
			cancel()
			err = errors.Join(err, j.group.Run(ended))
		}
	}()
	tel, err := telemetry.Start(ctx, telemetry.Config{
		Service: Service, Version: deps.Version, OTLPEndpoint: cfg.OTLPEndpoint, LogLevel: cfg.LogLevel, AdminAddress: cfg.AdminListen,
	})
	if err != nil {
		return nil, err
	}
	j.group.OnStop("telemetry", tel.Shutdown)

	if err := pg.Migrate(ctx, cfg.DSN.Reveal(), postgres.Schema, postgres.Migrations); err != nil {
		return nil, err
	}
	pool, err := pg.Open(ctx, pg.Config{DSN: cfg.DSN.Reveal(), Schema: postgres.Schema}, tel.Log)
	if err != nil {
		return nil, err
	}
	j.group.OnStop("pool", func(context.Context) error { pool.Close(); return nil })
	store := postgres.New(pool)

	bucket, err := cfg.S3.open(cfg.S3.Bucket)
	if err != nil {
		return nil, err
	}
	both := tiers.Store{Hot: bucket, Cold: bucket}
	var coldListing inventory.Bucket
	if cfg.S3.ColdBucket != "" && cfg.S3.ColdBucket != cfg.S3.Bucket {
		if both.Cold, err = cfg.S3.open(cfg.S3.ColdBucket); err != nil {
			return nil, err
		}
		coldListing = both.Cold
	}
	files := identity.Files{Cert: cfg.TLSCert, Key: cfg.TLSKey, CA: cfg.TLSCA}
	clientTLS, err := identity.ClientTLS(files, identity.RoleRegistry)
	if err != nil {
		return nil, err
	}
	conn, err := rpcclient.Dial(cfg.Registry, rpcclient.Options{TLS: clientTLS, Log: tel.Log, MaxReceive: 32 << 20})
	if err != nil {
		return nil, err
	}
	j.group.OnStop("registry connection", func(context.Context) error { return conn.Close() })
	registry := registryapi.New(registryv1.NewRetentionServiceClient(conn))

	meter := metrics.New(tel.Metrics)
	room := inventory.FixedRoom(int64(cfg.Capacity))
	if cfg.CapacityPath != "" {
		room = inventory.DiskRoom(cfg.CapacityPath)
		if _, err := room(0); err != nil {
			return nil, fmt.Errorf("capacity-path: %w", err)
		}
	}
	reader := inventory.Reader{Catalogue: registry, Bucket: bucket, Cold: coldListing, Holds: store, Readings: store, Room: room}
	planner := planning.New(store, reader, policy, policyText, meter)
	archiver := &archive.Archiver{Registry: registry, Hot: both.Hot, Cold: both.Cold, Scratch: cfg.Scratch, Log: tel.Log}
	sweeper := sweep.New(store, registry, both, archiver, planner, meter, tel.Log)
	loop := &schedule.Loop{
		Store: store, Planner: planner, Sweeper: sweeper, Scrubber: &scrub.Scrubber{Bucket: both, Store: store, Catalogue: registry},
		Driller: &drill.Drill{Catalogue: registry, Bucket: both, Scratch: cfg.Scratch}, Meter: meter, Log: tel.Log,
		Interval: cfg.Interval, ReportFile: cfg.ReportFile,
	}
	if hook := cfg.Webhook.Reveal(); hook != "" {
		loop.Sender = notify.Webhook{URL: hook, Token: cfg.WebhookToken.Reveal()}
	}

	listener := deps.Listener
	if listener == nil {
		if listener, err = net.Listen("tcp", cfg.Listen); err != nil {
			return nil, fmt.Errorf("listen on %s: %w; is the port taken?", cfg.Listen, err)
		}
	}
	serverTLS, err := identity.ServerTLS(files)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	server, err := rpcserver.New(rpcserver.Options{
		Name: Service, Listener: listener, TLS: serverTLS, Log: tel.Log, Metrics: tel.Metrics,
		Allow: janitorapi.Allow(), LongPoll: janitorapi.LongPoll(),
	})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	janitorv1.RegisterJanitorServiceServer(server.GRPC(), &janitorapi.Server{
		Store: store, Planner: planner, Sweeps: sweeper, Registry: registry, Reporter: loop, Hold: cfg.Hold,
	})
	j.Address = listener.Addr().String()
	j.group.Add("admin", tel.RunAdmin)
	j.group.Add("schedule", loop.Run)
	j.group.Add("server", server.Run)
	tel.Log.Info("checkpoint-janitor is ready", zap.String("address", j.Address), zap.String("policy", policy.Revision),
		zap.String("policy_hash", policy.Hash()), zap.Duration("interval", cfg.Interval))
	return j, nil
}

// Run serves until ctx ends.
func (j *Janitor) Run(ctx context.Context) error { return j.group.Run(ctx) }
