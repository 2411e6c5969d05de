// Package rpcclient dials a Trainyard service: mutual TLS with a check of the server's
// role, keepalive that notices a dead peer in 15 s, retries of UNAVAILABLE and
// nothing else, traces, and errors that come back as *rpcerr.Error.
package rpcclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
)

// Options of a connection.
type Options struct {
	// TLS comes from identity.ClientTLS. It may be nil for a unix socket, whose own
	// permissions guard it, and with Dialer; over a network it is required.
	TLS *tls.Config
	// Log gets one debug line per failed call; nil means none.
	Log *zap.Logger
	// Dialer replaces the network, for in-memory listeners.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// MaxReceive bounds one answer in bytes; zero means 4 MiB.
	MaxReceive int
	// WriteBuffer is how many bytes gather before they are written; zero means 32 KiB.
	// Bulk over a local socket wants more.
	WriteBuffer int
}

const (
	keepaliveTime     = 10 * time.Second
	keepaliveTimeout  = 5 * time.Second
	defaultMaxReceive = 4 << 20
	maxHeaderBytes    = 16 << 10
	// A service that restarts is back within seconds; grpc-go's default of two
	// minutes between attempts would outlast most leases.
	maxReconnectPause = 3 * time.Second
)

// retryPolicy retries UNAVAILABLE only: every other code either says that the server
// has done something or that trying again cannot help. Mutations carry a
// request_id, so a repeat whose first try did commit is harmless.
const retryPolicy = `{"methodConfig":[{"name":[{}],"retryPolicy":{"maxAttempts":4,"initialBackoff":"0.1s","maxBackoff":"2s","backoffMultiplier":2,"retryableStatusCodes":["UNAVAILABLE"]}}]}`

// Dial returns a connection that connects when it is first used and comes back by itself.
// target is host:port, or a gRPC target like unix:///run/agent.sock, or several
// host:port with commas between them: replicas of which one serves at a time.
func Dial(target string, opts Options) (*grpc.ClientConn, error) {
	creds, err := transport(target, opts)
	if err != nil {
		return nil, err
	}
	maxReceive := opts.MaxReceive
	if maxReceive == 0 {
		maxReceive = defaultMaxReceive
	}
	m := mapper{log: opts.Log, target: target}
	if m.log == nil {
		m.log = zap.NewNop()
	}
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay = 100 * time.Millisecond
	reconnect.MaxDelay = maxReconnectPause
	dialOpts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithStatsHandler(otelgrpc.NewClientHandler()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultServiceConfig(retryPolicy),
		grpc.WithDisableServiceConfig(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReceive)),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithChainUnaryInterceptor(m.unary),
		grpc.WithChainStreamInterceptor(m.stream),
	}
	if opts.WriteBuffer > 0 {
		dialOpts = append(dialOpts, grpc.WithWriteBufferSize(opts.WriteBuffer))
	}
	if opts.Dialer != nil {
		dialOpts = append(dialOpts, grpc.WithContextDialer(opts.Dialer))
	}
	several, target, err := replicas(target)
	if err != nil {
		return nil, err
	}
	dialOpts = append(dialOpts, several...)
	conn, err := grpc.NewClient(target, dialOpts...)
	if err != nil {
		return nil, fmt.Errorf("%q is not an address to dial; write host:port or unix:///path: %w", target, err)
	}
	return conn, nil
}

func transport(target string, opts Options) (credentials.TransportCredentials, error) {
	switch {
	case opts.TLS != nil:
		return credentials.NewTLS(opts.TLS), nil
	case opts.Dialer != nil, strings.HasPrefix(target, "unix:"), strings.HasPrefix(target, "unix-abstract:"):
		return insecure.NewCredentials(), nil
	}
	return nil, fmt.Errorf("dial %q: a network address needs TLS; set tls-cert, tls-key and tls-ca", target)
}

// mapper turns received statuses back into *rpcerr.Error.
type mapper struct {
	log    *zap.Logger
	target string
}

func (m mapper) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return m.unmap(ctx, method, next(ctx, method, req, reply, cc, opts...))
}

func (m mapper) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, m.unmap(ctx, method, err)
	}
	return &clientStream{ClientStream: s, m: m, method: method}, nil
}

func (m mapper) unmap(ctx context.Context, method string, err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	e := rpcerr.FromError(err)
	if e == nil {
		return err
	}
	if e.Reason() == errorv1.Reason_REASON_UNSPECIFIED {
		e = m.local(e)
	}
	m.log.Debug("call failed", append(telemetry.LogFields(ctx), zap.String("method", method), zap.Stringer("code", e.Code()), zap.Stringer("reason", e.Reason()), zap.Error(err))...)
	// A caller that ended its own context wants to see that in errors.Is.
	if ctx.Err() != nil && e.Unwrap() == nil {
		return e.WithCause(ctx.Err())
	}
	return e
}

// local gives a reason to errors that this side of the connection made: no server could.
func (m mapper) local(e *rpcerr.Error) *rpcerr.Error {
	switch e.Code() {
	case codes.Unavailable:
		return rpcerr.Unavailable("%s does not answer; is it running, and is the address right? (%s)", m.target, e.Message())
	case codes.DeadlineExceeded, codes.Canceled:
		return rpcerr.New(e.Code(), errorv1.Reason_REASON_DEADLINE_EXCEEDED, "%s", e.Message())
	}
	return e
}

type clientStream struct {
	grpc.ClientStream
	m      mapper
	method string
}

func (s *clientStream) RecvMsg(msg any) error {
	return s.m.unmap(s.Context(), s.method, s.ClientStream.RecvMsg(msg))
}

func (s *clientStream) SendMsg(msg any) error {
	return s.m.unmap(s.Context(), s.method, s.ClientStream.SendMsg(msg))
}

func (s *clientStream) CloseSend() error {
	return s.m.unmap(s.Context(), s.method, s.ClientStream.CloseSend())
}
