// Package s3server runs an S3 server (our build of versitygw) as a child process over a
// directory: the embedded default of `trainyard up` and of every test. It is a child
// and not a library because the gateway changes its process's working directory, and
// because its dependencies have no business in the services.
package s3server

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/childproc"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
)

// EnvBinary names the versitygw binary; it wins over the search.
const EnvBinary = "TRAINYARD_VERSITYGW"

// Options of a server.
type Options struct {
	// Binary is the versitygw program; empty means Find.
	Binary string
	// Dir holds the buckets, the certificate and the keys; it is made when missing. It
	// has to be absolute.
	Dir string
	// Listen is host:port; empty means a free port on loopback.
	Listen string
	// AccessKey and SecretKey; when empty they are made once and kept in Dir.
	AccessKey, SecretKey string
	// Log may be nil.
	Log *zap.Logger
}

// Server is a running S3 server. It speaks TLS with a certificate of its own: plain http
// breaks the signed trailing checksums of S3 clients.
type Server struct {
	// Endpoint is host:port.
	Endpoint string
	// CA is the PEM file of its certificate.
	CA                   string
	AccessKey, SecretKey string

	proc *childproc.Process
	log  *os.File
}

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 10 * time.Second
	// portAttempts covers another process taking the free port before the child does.
	portAttempts = 5
	healthPath   = "/healthz"
)

// NotFoundError says where the binary was looked for.
type NotFoundError struct{ Tried []string }

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("no S3 server binary: run `make bin/versitygw`, or set %s to one (looked at %v)", EnvBinary, e.Tried)
}

// Find returns the versitygw binary: TRAINYARD_VERSITYGW, beside this program, bin/versitygw
// of the checkout we are in, or PATH.
func Find() (string, error) {
	if path := os.Getenv(EnvBinary); path != "" {
		if err := executable(path); err != nil {
			return "", fmt.Errorf("%s=%s: %w", EnvBinary, path, err)
		}
		return filepath.Abs(path)
	}
	var tried []string
	if self, err := os.Executable(); err == nil {
		tried = append(tried, filepath.Join(filepath.Dir(self), "versitygw"))
	}
	if dir, err := os.Getwd(); err == nil {
		for {
			if _, err := os.Stat(filepath.Join(dir, "go.work")); err == nil {
				tried = append(tried, filepath.Join(dir, "bin", "versitygw"))
				break
			}
			if parent := filepath.Dir(dir); parent != dir {
				dir = parent
				continue
			}
			break
		}
	}
	for _, path := range tried {
		if executable(path) == nil {
			return path, nil
		}
	}
	if path, err := exec.LookPath("versitygw"); err == nil {
		return filepath.Abs(path)
	}
	return "", &NotFoundError{Tried: append(tried, "PATH")}
}

func executable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode().Perm()&0o111 == 0 {
		return errors.New("is not a program")
	}
	return nil
}

// Start starts the server and returns when it answers.
func Start(ctx context.Context, opts Options) (*Server, error) {
	if opts.Log == nil {
		opts.Log = zap.NewNop()
	}
	if !filepath.IsAbs(opts.Dir) {
		return nil, fmt.Errorf("the S3 directory %q must be an absolute path", opts.Dir)
	}
	if opts.Binary == "" {
		path, err := Find()
		if err != nil {
			return nil, err
		}
		opts.Binary = path
	}
	for _, sub := range []string{"buckets", "sidecar"} {
		if err := os.MkdirAll(filepath.Join(opts.Dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("make the S3 directory: %w", err)
		}
	}
	if err := ensureKeys(&opts); err != nil {
		return nil, err
	}
	for attempt := 1; ; attempt++ {
		s, err := startOnce(ctx, opts)
		if err == nil || opts.Listen != "" || attempt == portAttempts || ctx.Err() != nil || !errors.Is(err, errEnded) {
			return s, err
		}
		opts.Log.Info("the S3 server did not start; trying another port", zap.Error(err))
	}
}

// errEnded marks a child that ended before it answered.
var errEnded = errors.New("the S3 server ended")

func startOnce(ctx context.Context, opts Options) (*Server, error) {
	listen := opts.Listen
	if listen == "" {
		var err error
		if listen, err = freeAddress(ctx); err != nil {
			return nil, err
		}
	}
	s := &Server{Endpoint: listen, CA: filepath.Join(opts.Dir, "cert.pem"), AccessKey: opts.AccessKey, SecretKey: opts.SecretKey}
	key := filepath.Join(opts.Dir, "key.pem")
	if err := ensureCertificate(s.CA, key, listen); err != nil {
		return nil, fmt.Errorf("make the S3 certificate: %w", err)
	}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(opts.Dir, "versitygw.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		return nil, fmt.Errorf("open the S3 log: %w", err)
	}
	cmd := exec.Command(opts.Binary,
		"--listen", listen, "--root", filepath.Join(opts.Dir, "buckets"), "--sidecar", filepath.Join(opts.Dir, "sidecar"),
		"--cert", s.CA, "--key", key, "--health", healthPath)
	// The keys go through the environment: a command line is public.
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+opts.AccessKey, "ROOT_SECRET_KEY="+opts.SecretKey)
	if s.proc, err = childproc.Start(cmd, childproc.Options{OnParentDeath: syscall.SIGTERM, Output: s.log}); err != nil {
		return nil, errors.Join(err, s.log.Close())
	}
	if err := s.waitReady(ctx); err != nil {
		return nil, errors.Join(err, s.Stop())
	}
	return s, nil
}

func (s *Server) waitReady(ctx context.Context) error {
	raw, err := os.ReadFile(s.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(raw)
	transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, DisableKeepAlives: true}
	client := &http.Client{Timeout: time.Second, Transport: transport}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	for {
		err := health(ctx, client, "https://"+s.Endpoint+healthPath)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.proc.Done():
			return fmt.Errorf("start the S3 server on %s: %w: %w", s.Endpoint, errEnded, s.proc.Err())
		case <-timeout.C:
			return fmt.Errorf("start the S3 server on %s: no answer within %s: %w", s.Endpoint, startTimeout, err)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// health trusts only our own certificate, so another server on the port is no answer.
func health(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	if err := resp.Body.Close(); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("health: %s", resp.Status)
	}
	return nil
}

// Config is what a client needs for a bucket of this server.
func (s *Server) Config(bucket string) objectstore.Config {
	return objectstore.Config{Endpoint: s.Endpoint, AccessKey: s.AccessKey, SecretKey: s.SecretKey, Bucket: bucket, CA: s.CA}
}

// PID is the process id of the server.
func (s *Server) PID() int { return s.proc.PID() }

// Done closes when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Run blocks until ctx ends, then stops the server; it returns an error when the server
// ends by itself. It fits lifecycle.Group.Add.
func (s *Server) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return s.Stop()
	case <-s.proc.Done():
		return fmt.Errorf("the S3 server ended by itself; its log is versitygw.log in its directory: %w", errors.Join(s.proc.Err(), s.log.Close()))
	}
}

// Stop ends the server and waits.
func (s *Server) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := s.proc.Stop(ctx, syscall.SIGTERM)
	if cerr := s.log.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, cerr)
	}
	return err
}

func freeAddress(ctx context.Context) (string, error) {
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return lis.Addr().String(), lis.Close()
}

// ensureKeys keeps generated keys in the directory: a restart must not lock out clients.
func ensureKeys(opts *Options) error {
	for _, k := range []struct {
		value *string
		file  string
	}{{&opts.AccessKey, "access-key"}, {&opts.SecretKey, "secret-key"}} {
		if *k.value != "" {
			continue
		}
		path := filepath.Join(opts.Dir, k.file)
		raw, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			b := make([]byte, 20)
			_, _ = rand.Read(b) // crypto/rand.Read never fails
			raw = []byte(hex.EncodeToString(b))
			err = os.WriteFile(path, raw, 0o600)
		}
		if err != nil {
			return fmt.Errorf("keep the S3 keys: %w", err)
		}
		*k.value = string(raw)
	}
	return nil
}
