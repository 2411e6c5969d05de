// Package trackproxy lets MLflow clients inside a job write to their own run. It
// listens on the host's loopback, takes the attempt's token, and passes requests
// on to the registry with the host's certificate and the attempt's fence: so
// their writes are authenticated, fenced and traced like all others, and a
// client needs no credentials of the fleet.
package trackproxy

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// Caller is the attempt that a request comes from.
type Caller struct {
	JobID       string
	Attempt     uint32
	Fence       uint64
	TraceParent string
}

// Options of a proxy.
type Options struct {
	// Listen is a loopback address; with port 0 the port of an earlier agent is
	// taken again, because running trainers hold it in their environment.
	Listen string
	// Target is the registry's MLflow API.
	Target *url.URL
	// TLS is the host's client configuration; unused for an http target.
	TLS *tls.Config
	// StateDir remembers the port.
	StateDir string
	// Authenticate returns the live attempt of a token.
	Authenticate func(token []byte) (Caller, bool)
	// Refused is told why a request was not passed on.
	Refused func(reason string)
	Log     *zap.Logger
}

// Proxy is one listening proxy.
type Proxy struct {
	options  Options
	listener net.Listener
	server   *http.Server
}

// Limits of one request.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10
)

// New listens, and serves with Run.
func New(o Options) (*Proxy, error) {
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address: any program of the network could reach it", o.Listen)
	}
	remembered := filepath.Join(o.StateDir, "mlflow-port")
	var listener net.Listener
	if raw, readErr := os.ReadFile(remembered); readErr == nil && port == "0" {
		if listener, err = net.Listen("tcp", net.JoinHostPort(host, strings.TrimSpace(string(raw)))); err != nil {
			o.Log.Error("the MLflow proxy's port is taken; MLflow clients of running trainers will not find the new one", zap.Error(err))
		}
	}
	if listener == nil {
		if listener, err = net.Listen("tcp", o.Listen); err != nil {
			return nil, err
		}
	}
	_, port, err = net.SplitHostPort(listener.Addr().String())
	if err == nil {
		err = os.WriteFile(remembered, []byte(port+"\n"), 0o600)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	p := &Proxy{options: o, listener: listener}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy, transport.TLSClientConfig = nil, o.TLS
	transport.MaxIdleConnsPerHost = 32
	p.server = &http.Server{
		Handler: p.handler(transport), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: zap.NewStdLog(o.Log.Named("mlflow-proxy")),
	}
	return p, nil
}

// URL is what a trainer's MLFLOW_TRACKING_URI says.
func (p *Proxy) URL() string { return "http://" + p.listener.Addr().String() }

// Close is for a proxy that never ran.
func (p *Proxy) Close() error {
	if err := p.listener.Close(); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// Run serves until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- p.server.Serve(p.listener) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	short, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	err := p.server.Shutdown(short)
	if err != nil {
		err = p.server.Close() // clients come back to the next agent
	}
	// The port is free only when Serve has returned.
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

type callerKey struct{}

func (p *Proxy) handler(transport http.RoundTripper) http.Handler {
	forward := &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(p.options.Target)
			r.Out.Host = p.options.Target.Host
			c := r.In.Context().Value(callerKey{}).(Caller)
			// Nothing that the client says of itself counts.
			for name := range r.Out.Header {
				if strings.HasPrefix(name, "Trainyard-") {
					r.Out.Header.Del(name)
				}
			}
			r.Out.Header.Del("Authorization")
			r.Out.Header.Del("Cookie")
			r.Out.Header.Set("Trainyard-Job", c.JobID)
			r.Out.Header.Set("Trainyard-Attempt", strconv.FormatUint(uint64(c.Attempt), 10))
			r.Out.Header.Set("Trainyard-Fence", strconv.FormatUint(c.Fence, 10))
			if r.Out.Header.Get("Traceparent") == "" && c.TraceParent != "" {
				r.Out.Header.Set("Traceparent", c.TraceParent)
			}
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				p.options.Log.Warn("the registry's MLflow API does not answer", zap.Error(err))
			}
			// A status that MLflow's clients try again.
			p.refuse(w, http.StatusServiceUnavailable, "TEMPORARILY_UNAVAILABLE", "the registry cannot be reached from this host; try again")
		},
		ErrorLog: zap.NewStdLog(p.options.Log.Named("mlflow-proxy")),
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, ok := p.caller(r)
		switch {
		case !ok:
			p.refuse(w, http.StatusUnauthorized, "UNAUTHENTICATED", "the token is wrong, or its lease is over")
		case !open(r.URL.Path):
			p.refuse(w, http.StatusNotFound, "ENDPOINT_NOT_FOUND", "the proxy passes on MLflow's API only")
		default:
			forward.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, caller)))
		}
	})
}

// open says whether a path is part of MLflow's API.
func open(p string) bool {
	if path.Clean(p) != strings.TrimSuffix(p, "/") {
		return false
	}
	return strings.HasPrefix(p, "/api/") || strings.HasPrefix(p, "/ajax-api/") || p == "/health" || p == "/version"
}

func (p *Proxy) caller(r *http.Request) (Caller, bool) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		return Caller{}, false
	}
	raw, err := hex.DecodeString(token)
	if err != nil || len(raw) == 0 {
		return Caller{}, false
	}
	return p.options.Authenticate(raw)
}

// refuse answers in the form that MLflow's clients read.
func (p *Proxy) refuse(w http.ResponseWriter, status int, code, message string) {
	p.options.Refused(code)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A client that hung up needs no answer.
	_ = json.NewEncoder(w).Encode(map[string]string{"error_code": code, "message": message})
}
