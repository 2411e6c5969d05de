// Package scheduler wires the scheduler service: it takes training jobs, keeps
// them durably, decides which device each one runs on and follows it to its end.
package scheduler

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/agentapi"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/archive"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/failpoint"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/jobapi"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/registryclient"
)

// Config is everything a person can set. Every key is documented by its usage.
type Config struct {
	Listen       string `conf:"listen" default:"127.0.0.1:7701" usage:"host:port of the gRPC server"`
	AdminListen  string `conf:"admin-listen" usage:"host:port of /metrics and, on loopback, pprof; empty serves neither"`
	TLSCert      string `conf:"tls-cert" required:"true" usage:"PEM certificate of this scheduler"`
	TLSKey       string `conf:"tls-key" required:"true" usage:"PEM key of the certificate"`
	TLSCA        string `conf:"tls-ca" required:"true" usage:"PEM certificates of the authority that callers are checked against"`
	OTLPEndpoint string `conf:"otlp-endpoint" usage:"OTLP gRPC receiver of traces; empty exports none"`
	LogLevel     string `conf:"log-level" default:"info" usage:"debug, info, warn or error"`
	Registry     string `conf:"registry" usage:"host:port of the registry, for jobs that wait for a promotion; empty refuses such jobs"`
	DSN          string `conf:"dsn" required:"true" secret:"true" usage:"Postgres connection string"`

	Lease     time.Duration `conf:"lease" default:"15s" usage:"how long an agent's leases live without a report"`
	LockDelay time.Duration `conf:"lock-delay" default:"5s" usage:"added to the lease before a silent agent's devices are given away"`
	Poll      time.Duration `conf:"poll" default:"4s" usage:"how long an agent's call is held when there is nothing to tell"`

	LeadTTL        time.Duration `conf:"lead-ttl" default:"5s" usage:"how long another scheduler on the same database waits for a silent leader"`
	History        time.Duration `conf:"history" default:"4320h" usage:"how long ended jobs and their decisions stay in the database"`
	HistoryArchive string        `conf:"history-archive" usage:"where ended jobs go when they leave the database, one place for all replicas: s3://BUCKET[/FOLDER], a bucket that no other service of the mesh uses, or a directory; empty lets them go"`
	HistoryLimit   config.Bytes  `conf:"history-archive-limit" default:"10GiB" usage:"bound of that archive's files, the oldest go first; 0 means none"`
	S3             S3            `conf:"s3"`
	MinRuntime     time.Duration `conf:"min-runtime" default:"1m" usage:"how long an attempt has run before it may be stopped for another job"`

	DefaultReservation config.Bytes  `conf:"default-reservation" default:"512MiB" usage:"device memory of a job that names no device"`
	DefaultCPUMillis   int64         `conf:"default-cpu-millis" default:"500" usage:"thousandths of a CPU of a job that asks for none"`
	DefaultHostMemory  config.Bytes  `conf:"default-host-memory" default:"256MiB" usage:"host memory of a job that asks for none"`
	DefaultStallLimit  time.Duration `conf:"default-stall-limit" default:"10m" usage:"longest time without a step of a job that sets no limit"`
}

// S3 is the server of a history-archive that is a bucket.
type S3 struct {
	Endpoint  string `conf:"endpoint" usage:"host:port or https:// URL of the S3 server"`
	AccessKey string `conf:"access-key" secret:"true" usage:"access key"`
	SecretKey string `conf:"secret-key" secret:"true" usage:"secret key"`
	Region    string `conf:"region" usage:"region; empty means us-east-1"`
	CA        string `conf:"ca" usage:"PEM file of the S3 server's authority; empty means the system's"`
	Insecure  bool   `conf:"insecure" default:"false" usage:"speak http to the S3 server; only for a trusted network"`
}

// Validate names every setting that contradicts another.
func (c *Config) Validate() []string {
	var out []string
	if c.Lease < 2*time.Second {
		out = append(out, fmt.Sprintf("lease: %s is too short; agents need at least 2s", c.Lease))
	}
	if c.LockDelay < 0 {
		out = append(out, fmt.Sprintf("lock-delay: %s is negative", c.LockDelay))
	}
	if c.Poll <= 0 || c.Poll > c.Lease/2 {
		out = append(out, fmt.Sprintf("poll: %s must be positive and at most half of lease (%s), or one late answer costs an agent its leases", c.Poll, c.Lease))
	}
	if c.LeadTTL < time.Second || c.LeadTTL > c.Lease {
		out = append(out, fmt.Sprintf("lead-ttl: %s must be between 1s and lease (%s), or a failover takes longer than leases live", c.LeadTTL, c.Lease))
	}
	if c.History < time.Hour {
		out = append(out, fmt.Sprintf("history: %s is shorter than an hour", c.History))
	}
	if c.MinRuntime < 0 {
		out = append(out, fmt.Sprintf("min-runtime: %s is negative", c.MinRuntime))
	}
	if c.DefaultReservation == 0 || c.DefaultCPUMillis < 0 {
		out = append(out, "default-cpu-millis must not be negative, and a default-reservation of 0 would mean a whole device")
	}
	return append(out, c.archiveProblems()...)
}

// archivePlace splits history-archive; bucket is "" for a directory.
func (c *Config) archivePlace() (bucket, folder string) {
	place, ok := strings.CutPrefix(c.HistoryArchive, "s3://")
	if !ok {
		return "", ""
	}
	bucket, folder, _ = strings.Cut(place, "/")
	if folder = strings.Trim(folder, "/"); folder != "" {
		folder += "/"
	}
	return bucket, folder
}

func (c *Config) archiveProblems() []string {
	scheme, _, ok := strings.Cut(c.HistoryArchive, "://")
	if !ok {
		return nil
	}
	if bucket, _ := c.archivePlace(); scheme != "s3" || bucket == "" {
		return []string{fmt.Sprintf("history-archive: %q is neither s3://BUCKET[/FOLDER] nor a directory", c.HistoryArchive)}
	}
	var out []string
	if c.S3.Endpoint == "" {
		out = append(out, "s3-endpoint: required for a bucket; set --s3-endpoint, or set --history-archive to a directory")
	}
	if c.S3.AccessKey == "" || c.S3.SecretKey == "" {
		out = append(out, "s3-access-key, s3-secret-key: required for a bucket; set TRAINYARD_SCHEDULER_S3_ACCESS_KEY and _S3_SECRET_KEY, or their --...-file flags")
	}
	return out
}

// Deps are what a process brings.
type Deps struct {
	Listener  net.Listener
	Telemetry *telemetry.Telemetry
}

// Scheduler is the service, ready to run once.
type Scheduler struct {
	group lifecycle.Group
}

// New opens the database, migrates it and builds the service.
func New(ctx context.Context, c Config, d Deps) (*Scheduler, error) {
	log := d.Telemetry.Log
	if err := pg.Migrate(ctx, c.DSN, postgres.Schema, postgres.Migrations); err != nil {
		return nil, err
	}
	pool, err := pg.Open(ctx, pg.Config{DSN: c.DSN, Schema: postgres.Schema, MaxConns: 16}, log)
	if err != nil {
		return nil, err
	}
	tls, err := identity.ServerTLS(identity.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA})
	if err != nil {
		pool.Close()
		return nil, err
	}
	defaults := jobapi.StandardDefaults()
	defaults.DeviceBytes, defaults.CPUMillis = int64(c.DefaultReservation), c.DefaultCPUMillis
	defaults.HostBytes, defaults.StallLimit = int64(c.DefaultHostMemory), c.DefaultStallLimit
	promotions, hangUp, err := promotionsOf(c)
	if err != nil {
		pool.Close()
		return nil, err
	}
	old, err := archiveOf(c)
	if err != nil {
		pool.Close()
		return nil, err
	}
	o := cycle.Options{
		Store: failpoint.Store(postgres.New(pool)), Log: log.Named("cycle"), Meter: cycle.NewMeter(d.Telemetry.Metrics), Holder: holder(d.Listener),
		Tracer: d.Telemetry.Tracer("github.com/ultrathink-pilot/trainyard/services/scheduler"),
		Terms:  lease.Terms{Duration: c.Lease, LockDelay: c.LockDelay}, Seed: uint64(time.Now().UnixNano()),
		Compose: jobapi.Composer(defaults), Promotions: promotions, HistoryAge: c.History, LeadTTL: c.LeadTTL,
		Rules: placement.DefaultRules(),
	}
	o.Rules.MinRuntime = c.MinRuntime
	if old != nil {
		o.Archive = old
	}
	engine := cycle.New(o)
	jobs := jobapi.NewJobs(engine, defaults, old)
	server, err := rpcserver.New(rpcserver.Options{
		Name: "scheduler", Listener: d.Listener, TLS: tls, Log: log, Metrics: d.Telemetry.Metrics, Allow: Allow(),
		LongPoll: []string{fleetv1.SynchronizeService_Synchronize_FullMethodName},
		// A specification that is far too large is answered with what is wrong.
		MaxReceive: 16 << 20, Further: jobs.Problems,
	})
	if err != nil {
		pool.Close()
		return nil, err
	}
	jobv1.RegisterJobServiceServer(server.GRPC(), jobs)
	jobv1.RegisterArrayServiceServer(server.GRPC(), jobapi.NewArrays(jobs))
	jobv1.RegisterGraphServiceServer(server.GRPC(), jobapi.NewGraphs(jobs))
	jobv1.RegisterScheduleServiceServer(server.GRPC(), jobapi.NewSchedules(jobs))
	jobv1.RegisterQuotaServiceServer(server.GRPC(), jobapi.NewQuotas(engine))
	fleetv1.RegisterFleetServiceServer(server.GRPC(), jobapi.NewFleet(engine))
	fleetv1.RegisterSynchronizeServiceServer(server.GRPC(), agentapi.New(engine, c.Poll))

	s := &Scheduler{}
	s.group.OnStop("database", func(context.Context) error { pool.Close(); return nil })
	s.group.OnStop("registry", func(context.Context) error { return hangUp() })
	s.group.Add("admin", d.Telemetry.RunAdmin)
	s.group.Add("engine", engine.Run)
	s.group.Add("server", func(ctx context.Context) error {
		// No call is taken before the world is loaded: health says so.
		select {
		case <-engine.Ready():
		case <-ctx.Done():
			return nil
		}
		return server.Run(ctx)
	})
	return s, nil
}

// archiveOf opens the archive of old jobs, where one is configured.
func archiveOf(c Config) (*jobapi.Archive, error) {
	if c.HistoryArchive == "" {
		return nil, nil
	}
	bucket, folder := c.archivePlace()
	open := func() (*objectstore.Store, error) { return objectstore.OpenDirectory(c.HistoryArchive) }
	if bucket != "" {
		open = func() (*objectstore.Store, error) {
			return objectstore.Open(objectstore.Config{Endpoint: c.S3.Endpoint, AccessKey: c.S3.AccessKey, SecretKey: c.S3.SecretKey,
				Bucket: bucket, Region: c.S3.Region, CA: c.S3.CA, Insecure: c.S3.Insecure})
		}
	}
	store, err := open()
	if err != nil {
		return nil, fmt.Errorf("the archive of history: %w", err)
	}
	return jobapi.NewArchive(archive.New(store, folder, int64(c.HistoryLimit))), nil
}

// promotionsOf dials the registry, where one is configured.
func promotionsOf(c Config) (_ cycle.Promotions, hangUp func() error, err error) {
	if c.Registry == "" {
		return nil, func() error { return nil }, nil
	}
	tls, err := identity.ClientTLS(identity.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}, identity.RoleRegistry)
	if err != nil {
		return nil, nil, err
	}
	conn, err := rpcclient.Dial(c.Registry, rpcclient.Options{TLS: tls})
	if err != nil {
		return nil, nil, err
	}
	return registryclient.New(conn), conn.Close, nil
}

// holder names this scheduler among those that may lead. A process that has the
// same address on the same host is the same one after a restart: the old one
// cannot be alive any more, so it need not wait for its own lead to run out.
func holder(lis net.Listener) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return host + "/" + lis.Addr().String()
}

// Run works until ctx ends, then stops the server before what it needs.
func (s *Scheduler) Run(ctx context.Context) error { return s.group.Run(ctx) }

// Allow is the table of who may call what. What is not in it is denied.
func Allow() rpcserver.AllowTable {
	person := []identity.Role{identity.RolePerson}
	// The inference service and the meta-controller read and submit as people
	// do; only people change what others have submitted.
	reader := []identity.Role{identity.RolePerson, identity.RoleInference}
	return rpcserver.AllowTable{
		jobv1.JobService_SubmitJob_FullMethodName:             person,
		jobv1.JobService_GetJob_FullMethodName:                reader,
		jobv1.JobService_ListJobs_FullMethodName:              reader,
		jobv1.JobService_WatchJobs_FullMethodName:             reader,
		jobv1.JobService_CancelJob_FullMethodName:             person,
		jobv1.JobService_PauseJob_FullMethodName:              person,
		jobv1.JobService_ResumeJob_FullMethodName:             person,
		jobv1.JobService_ReprioritizeJob_FullMethodName:       person,
		jobv1.JobService_ExplainJob_FullMethodName:            reader,
		jobv1.JobService_ExplainPlacement_FullMethodName:      reader,
		jobv1.JobService_ListSnapshots_FullMethodName:         reader,
		jobv1.JobService_GetSnapshot_FullMethodName:           reader,
		jobv1.JobService_GetJobHistory_FullMethodName:         reader,
		jobv1.ArrayService_SubmitArray_FullMethodName:         person,
		jobv1.ArrayService_GetArray_FullMethodName:            reader,
		jobv1.ArrayService_ListArrays_FullMethodName:          reader,
		jobv1.ArrayService_CancelArray_FullMethodName:         person,
		jobv1.ArrayService_ExplainArray_FullMethodName:        reader,
		jobv1.GraphService_SubmitGraph_FullMethodName:         person,
		jobv1.GraphService_GetGraph_FullMethodName:            reader,
		jobv1.GraphService_CancelGraph_FullMethodName:         person,
		jobv1.ScheduleService_CreateSchedule_FullMethodName:   person,
		jobv1.ScheduleService_GetSchedule_FullMethodName:      reader,
		jobv1.ScheduleService_ListSchedules_FullMethodName:    reader,
		jobv1.ScheduleService_UpdateSchedule_FullMethodName:   person,
		jobv1.ScheduleService_PauseSchedule_FullMethodName:    person,
		jobv1.ScheduleService_ResumeSchedule_FullMethodName:   person,
		jobv1.ScheduleService_DeleteSchedule_FullMethodName:   person,
		jobv1.QuotaService_SetQuota_FullMethodName:            person,
		jobv1.QuotaService_GetQuota_FullMethodName:            reader,
		jobv1.QuotaService_ListQuotas_FullMethodName:          reader,
		jobv1.QuotaService_DeleteQuota_FullMethodName:         person,
		fleetv1.FleetService_ListAgents_FullMethodName:        reader,
		fleetv1.FleetService_CordonAgent_FullMethodName:       person,
		fleetv1.FleetService_DrainAgent_FullMethodName:        person,
		fleetv1.FleetService_UncordonAgent_FullMethodName:     person,
		fleetv1.SynchronizeService_Synchronize_FullMethodName: {identity.RoleAgent},
	}
}
