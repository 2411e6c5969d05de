// Package rpcserver is the gRPC server of every service: mutual TLS, a default-deny
// table of callers, validation of every message, one form of errors, deadlines,
// limits, traces, access logs, health, reflection and a graceful drain. A service
// registers its handlers and writes none of this.
package rpcserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sort"
	"strings"
	"sync"
	"time"

	"buf.build/go/protovalidate"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
)

// AllowTable names the roles that may call each full method
// ("/trainyard.job.v1.JobService/SubmitJob"). What is not in it is denied, and a
// registered method that is missing from it stops the server from starting: a new
// RPC is a decision about its callers.
type AllowTable map[string][]identity.Role

// Options of a server. Listener, Log and Allow are required, and exactly one of TLS and
// Authenticate.
type Options struct {
	// Name is the service in logs and metrics.
	Name     string
	Listener net.Listener
	// TLS comes from identity.ServerTLS; the caller is the client certificate's id.
	TLS *tls.Config
	// Authenticate replaces TLS where the transport proves the caller in another way
	// (the agent's unix socket), and in tests over an in-memory listener.
	Authenticate func(ctx context.Context) (identity.ID, error)
	Log          *zap.Logger
	// Metrics is where the server's metrics go; nil means nowhere.
	Metrics prometheus.Registerer
	Allow   AllowTable
	// Drain bounds the time for which accepted calls may finish; zero means 10 s.
	Drain time.Duration
	// LongPoll lists full methods that wait on purpose: without a deadline of the
	// caller they get LongPollLimit instead of UnaryLimit.
	LongPoll []string
	// Further is asked what else is wrong with a message that breaks the rules in its
	// .proto, so that the caller gets everything in one answer; nil adds nothing.
	Further func(ctx context.Context, m proto.Message) []rpcerr.Violation
	// MaxReceive bounds one message in bytes; zero means 4 MiB.
	MaxReceive int
	// Transport are further options of the transport, such as larger buffers for bulk.
	Transport []grpc.ServerOption
}

// Limits, with their reasons in the reliability notes: defaults of grpc-go notice a
// black-holed peer never, or after two hours.
const (
	// UnaryLimit is the deadline of a unary call that brings none.
	UnaryLimit = 30 * time.Second
	// LongPollLimit is the same for Options.LongPoll.
	LongPollLimit = 5 * time.Minute

	defaultDrain      = 10 * time.Second
	defaultMaxReceive = 4 << 20
	maxStreams        = 256
	maxHeaderBytes    = 16 << 10
	connectTimeout    = 10 * time.Second
	keepaliveTime     = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
	// Clients ping each 10 s. Equal limits close the connection of a client whose
	// timer fires a little early (too_many_pings).
	keepaliveMinTime = 8 * time.Second
	// grpc-go adds 10 % jitter. Streams are not cut: the old connection lives until
	// its last stream ends.
	maxConnectionAge = 30 * time.Minute
)

// Server is a gRPC server that has not been started yet, then runs once.
type Server struct {
	opts     Options
	grpc     *grpc.Server
	health   *health.Server
	draining chan struct{}
	once     sync.Once
}

// New makes the server. Register handlers on GRPC(), then Run.
func New(opts Options) (*Server, error) {
	if err := opts.check(); err != nil {
		return nil, err
	}
	if opts.Drain == 0 {
		opts.Drain = defaultDrain
	}
	if opts.MaxReceive == 0 {
		opts.MaxReceive = defaultMaxReceive
	}
	validator, err := protovalidate.New()
	if err != nil {
		return nil, fmt.Errorf("make the message validator: %w", err)
	}
	metrics, err := newMetrics(opts.Metrics)
	if err != nil {
		return nil, err
	}
	s := &Server{opts: opts, health: health.NewServer(), draining: make(chan struct{})}
	h := &handling{
		log: opts.Log, metrics: metrics, validator: validator, allow: opts.Allow,
		authenticate: opts.Authenticate, longPoll: map[string]bool{}, draining: s.draining, further: opts.Further,
	}
	for _, m := range opts.LongPoll {
		h.longPoll[m] = true
	}
	if opts.TLS != nil {
		h.authenticate = fromTLS
	}
	serverOpts := []grpc.ServerOption{
		grpc.StatsHandler(otelgrpc.NewServerHandler()),
		// Outermost first: the log sees the mapped error, the mapping sees panics, and
		// nothing reads a message before its sender is known and allowed.
		grpc.ChainUnaryInterceptor(h.unaryLog, h.unaryMap, h.unaryRecover, h.unaryAuth, h.unaryDeadline, h.unaryValidate),
		grpc.ChainStreamInterceptor(h.streamLog, h.streamMap, h.streamRecover, h.streamAuth, h.streamValidate),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, MaxConnectionAge: maxConnectionAge}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveMinTime, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(opts.MaxReceive),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.ConnectionTimeout(connectTimeout),
		grpc.WaitForHandlers(true),
	}
	if opts.TLS != nil {
		serverOpts = append(serverOpts, grpc.Creds(credentials.NewTLS(opts.TLS)))
	}
	s.grpc = grpc.NewServer(append(serverOpts, opts.Transport...)...)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	return s, nil
}

func (o Options) check() error {
	var missing []string
	if o.Listener == nil {
		missing = append(missing, "Listener")
	}
	if o.Log == nil {
		missing = append(missing, "Log")
	}
	if o.Allow == nil {
		missing = append(missing, "Allow")
	}
	if (o.TLS == nil) == (o.Authenticate == nil) {
		missing = append(missing, "exactly one of TLS and Authenticate")
	}
	if len(missing) > 0 {
		return fmt.Errorf("rpcserver %s: the options need %s", o.Name, strings.Join(missing, ", "))
	}
	return nil
}

// GRPC returns the server to register handlers on.
func (s *Server) GRPC() *grpc.Server { return s.grpc }

// openPrefixes are the services that every authenticated caller may use.
var openPrefixes = []string{"/grpc.health.v1.Health/", "/grpc.reflection.v1.ServerReflection/", "/grpc.reflection.v1alpha.ServerReflection/"}

func isOpen(method string) bool {
	for _, p := range openPrefixes {
		if strings.HasPrefix(method, p) {
			return true
		}
	}
	return false
}

// CheckAllow compares the table with the registered methods. Run calls it; a test of
// a service may too.
func (s *Server) CheckAllow() error {
	registered := map[string]bool{}
	for name, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			if full := "/" + name + "/" + m.Name; !isOpen(full) {
				registered[full] = true
			}
		}
	}
	var problems []string
	for full := range registered {
		if _, ok := s.opts.Allow[full]; !ok {
			problems = append(problems, full+" has no entry: name the roles that may call it")
		}
	}
	for full, roles := range s.opts.Allow {
		if !registered[full] {
			problems = append(problems, full+" is not registered: remove the entry or correct its name")
		}
		for _, r := range roles {
			if !r.Valid() {
				problems = append(problems, fmt.Sprintf("%s allows %q, which is no role", full, r))
			}
		}
	}
	for _, full := range s.opts.LongPoll {
		if !registered[full] {
			problems = append(problems, full+" is in LongPoll but not registered")
		}
	}
	if len(problems) == 0 {
		return nil
	}
	sort.Strings(problems)
	return fmt.Errorf("rpcserver %s: the table of allowed callers is wrong:\n  - %s", s.opts.Name, strings.Join(problems, "\n  - "))
}

// Run serves until ctx ends, then drains: health turns NOT_SERVING, Draining channels
// close, no new call is taken, and accepted calls get Options.Drain to finish
// before they are cut.
func (s *Server) Run(ctx context.Context) error {
	if err := s.CheckAllow(); err != nil {
		return errors.Join(err, s.opts.Listener.Close())
	}
	for name := range s.grpc.GetServiceInfo() {
		s.health.SetServingStatus(name, healthv1.HealthCheckResponse_SERVING)
	}
	s.opts.Log.Info("serving", zap.String("server", s.opts.Name), zap.Stringer("address", s.opts.Listener.Addr()))
	served := make(chan error, 1)
	go func() { served <- s.grpc.Serve(s.opts.Listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve %s: %w", s.opts.Name, err)
	case <-ctx.Done():
	}
	s.once.Do(func() { close(s.draining) })
	s.health.Shutdown()
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		s.grpc.GracefulStop()
	}()
	timer := time.NewTimer(s.opts.Drain)
	defer timer.Stop()
	select {
	case <-drained:
	case <-timer.C:
		s.opts.Log.Warn("drain took too long; the remaining calls are cut", zap.String("server", s.opts.Name), zap.Duration("drain", s.opts.Drain))
		s.grpc.Stop()
		<-drained
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve %s: %w", s.opts.Name, err)
	}
	return nil
}

type drainKey struct{}

// Draining returns a channel that closes when the server of this request begins to
// drain. Handlers that wait (long polls, streams) select on it and end early with
// rpcerr.Draining or their last good answer. Outside a server it never closes.
func Draining(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(drainKey{}).(chan struct{})
	return c
}
