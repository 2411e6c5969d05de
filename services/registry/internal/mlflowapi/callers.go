package mlflowapi

import (
	"bufio"
	"context"
	"crypto/subtle"
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// The headers with which an agent's local proxy says on whose behalf it forwards a request.
// They count from an agent's certificate, and on a server that was opened for development.
const (
	JobHeader   = "Trainyard-Job"
	FenceHeader = "Trainyard-Fence"
)

// authentic reports whether a request may come in, and whether its headers speak for an attempt.
func (s *Server) authentic(r *http.Request) (ok, agent bool) {
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		id, err := identity.FromCertificate(r.TLS.PeerCertificates[0])
		if err == nil && id.Role == identity.RoleAgent {
			return true, true
		}
	}
	if s.Token == "" {
		return true, true
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		_, given, _ = r.BasicAuth()
	}
	return subtle.ConstantTimeCompare([]byte(given), []byte(s.Token)) == 1, false
}

type guardKey struct{}

// guardOf is what a request showed for the runs that it writes.
func guardOf(ctx context.Context) postgres.Guard {
	g, _ := ctx.Value(guardKey{}).(postgres.Guard)
	return g
}

// openWait bounds how long a request waits for its attempt's RunOpened. It travels through the
// agent's spool, and a script that starts fast can be here before it.
const openWait = 20 * time.Second

// awaitOpen returns when the attempt's run is open. To go ahead would be wrong twice: a first
// attempt's run does not exist, and what a later one writes would count as its predecessor's
// and vanish with what that left above the restored step.
func (s *Server) awaitOpen(ctx context.Context, g postgres.Guard, write bool) error {
	for wait, left := 10*time.Millisecond, openWait; ; left, wait = left-wait, min(2*wait, 250*time.Millisecond) {
		open, err := s.Store.CheckFence(ctx, g.Job, g.Fence, write)
		if open || err != nil {
			return err
		}
		if left <= 0 {
			return &apiError{"TEMPORARILY_UNAVAILABLE", "the run of this attempt is not open yet: its agent has not delivered RunOpened. Try again"}
		}
		s.Log.Debug("a request waits for its attempt's RunOpened", zap.String("job_id", g.Job), zap.Uint64("fence", g.Fence))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// admit reads the attempt's headers. A stale fence ends every change here, whatever it is
// about; a change of the job's own run is judged once more in its transaction.
func (s *Server) admit(r *http.Request) (*http.Request, error) {
	ok, agent := s.authentic(r)
	if !ok {
		return r, &apiError{"UNAUTHENTICATED", "You are not authenticated. Set MLFLOW_TRACKING_TOKEN to this server's token."}
	}
	text := r.Header.Get(FenceHeader)
	if !agent || text == "" {
		return r, nil
	}
	fence, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return r, invalid("The header %s must be a number", FenceHeader)
	}
	g := postgres.Guard{Job: keptID(r.Header.Get(JobHeader)), Fence: fence, HasFence: true}
	if g.Job != "" {
		if err := s.awaitOpen(r.Context(), g, r.Method != http.MethodGet && r.Method != http.MethodHead); err != nil {
			return r, err
		}
	}
	return r.WithContext(context.WithValue(r.Context(), guardKey{}, g)), nil
}

// Both serves TLS and plain HTTP on one port: agents come with certificates, people's
// clients on a trusted network mostly cannot. The first byte tells.
func Both(plain net.Listener, config *tls.Config) net.Listener {
	config = ifGiven(config)
	if per := config.GetConfigForClient; per != nil {
		config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := per(h)
			if c != nil {
				c = ifGiven(c)
			}
			return c, err
		}
	}
	l := &both{Listener: plain, config: config, ready: make(chan net.Conn), closed: make(chan struct{})}
	go l.accept()
	return l
}

// ifGiven checks a certificate that comes, and lets in who has none: a token may follow.
func ifGiven(config *tls.Config) *tls.Config {
	config = config.Clone()
	config.ClientAuth, config.NextProtos = tls.VerifyClientCertIfGiven, []string{"http/1.1"}
	if verify := config.VerifyConnection; verify != nil {
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return nil
			}
			return verify(state)
		}
	}
	return config
}

type both struct {
	net.Listener
	config *tls.Config
	ready  chan net.Conn
	err    error
	once   sync.Once
	closed chan struct{}
}

// hello is the first byte of a TLS handshake; no HTTP method begins with it.
const hello = 0x16

func (l *both) accept() {
	defer close(l.ready)
	var looking sync.WaitGroup
	defer looking.Wait()
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			l.err = err
			return
		}
		looking.Go(func() { l.look(conn) })
	}
}

func (l *both) look(conn net.Conn) {
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // a dead connection fails below
	seen := &peeked{Conn: conn, r: bufio.NewReaderSize(conn, 4096)}
	first, err := seen.r.Peek(1)
	if err != nil {
		_ = conn.Close() // it said nothing
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var ready net.Conn = seen
	if first[0] == hello {
		ready = tls.Server(seen, l.config)
	}
	select {
	case l.ready <- ready:
	case <-l.closed:
		_ = conn.Close() // nobody accepts any more
	}
}

func (l *both) Accept() (net.Conn, error) {
	select {
	case conn, open := <-l.ready:
		if open {
			return conn, nil
		}
		return nil, l.err
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *both) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// peeked is a connection whose first bytes were looked at.
type peeked struct {
	net.Conn
	r *bufio.Reader
}

func (c *peeked) Read(b []byte) (int, error) { return c.r.Read(b) }
