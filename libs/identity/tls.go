package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// ServerTLS returns the configuration of a server that demands a client
// certificate with a SPIFFE id from the CA. TLS 1.3 only. The files are read again
// when they change, so rotation needs no restart.
func ServerTLS(files Files) (*tls.Config, error) {
	r, err := newReloader(files)
	if err != nil {
		return nil, err
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ClientAuth: tls.RequireAndVerifyClientCert,
		// Tickets would let a caller outlive its certificate by a week.
		SessionTicketsDisabled: true,
	}
	base.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		pair, pool := r.current()
		c := base.Clone()
		c.GetConfigForClient = nil
		c.Certificates = []tls.Certificate{*pair}
		c.ClientCAs = pool
		c.VerifyConnection = func(s tls.ConnectionState) error {
			_, err := FromCertificate(s.PeerCertificates[0])
			return err
		}
		return c, nil
	}
	return base, nil
}

// ClientTLS returns the configuration of a client that shows its own certificate and
// accepts a server only when the CA vouches for it and its SPIFFE role is server.
// The host name plays no part: addresses change and prove nothing.
func ClientTLS(files Files, server Role) (*tls.Config, error) {
	if !server.Valid() {
		return nil, fmt.Errorf("unknown server role %q; the roles are %v", server, Roles())
	}
	r, err := newReloader(files)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, _ := r.current()
			return pair, nil
		},
		// This turns off Go's check by host name; VerifyConnection does the rest of
		// that check and the role, and runs on every handshake.
		InsecureSkipVerify: true,
		VerifyConnection: func(s tls.ConnectionState) error {
			_, pool := r.current()
			return verifyServer(s, pool, server)
		},
	}, nil
}

func verifyServer(s tls.ConnectionState, roots *x509.CertPool, want Role) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server showed no certificate")
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := s.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		return fmt.Errorf("the server's certificate is not from our CA: %w", err)
	}
	id, err := FromCertificate(leaf)
	if err != nil {
		return err
	}
	if id.Role != want {
		return fmt.Errorf("the server is %s, but this client wants a %s; check the address", id, want)
	}
	return nil
}

// reloader holds the newest good state of the files. A broken or half-replaced
// set keeps the old one: a bad rotation must not take down a working service.
type reloader struct {
	files Files

	mu     sync.Mutex
	stamps [3]stamp
	pair   *tls.Certificate
	pool   *x509.CertPool
}

type stamp struct {
	modified time.Time
	size     int64
}

func newReloader(files Files) (*reloader, error) {
	r := &reloader{files: files}
	stamps, err := r.stat()
	if err != nil {
		return nil, fmt.Errorf("TLS files: %w; tls-cert, tls-key and tls-ca must name readable PEM files", err)
	}
	if err := r.read(stamps); err != nil {
		return nil, fmt.Errorf("TLS files: %w", err)
	}
	if time.Now().After(r.pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("the certificate %s expired on %s; issue a new one", files.Cert, r.pair.Leaf.NotAfter.Format(time.RFC3339))
	}
	return r, nil
}

func (r *reloader) stat() ([3]stamp, error) {
	var out [3]stamp
	for i, path := range []string{r.files.Cert, r.files.Key, r.files.CA} {
		info, err := os.Stat(path)
		if err != nil {
			return out, err
		}
		out[i] = stamp{modified: info.ModTime(), size: info.Size()}
	}
	return out, nil
}

func (r *reloader) read(stamps [3]stamp) error {
	pair, err := tls.LoadX509KeyPair(r.files.Cert, r.files.Key)
	if err != nil {
		return fmt.Errorf("certificate %s with key %s: %w", r.files.Cert, r.files.Key, err)
	}
	if _, err := FromCertificate(pair.Leaf); err != nil {
		return fmt.Errorf("certificate %s: %w", r.files.Cert, err)
	}
	caPEM, err := os.ReadFile(r.files.CA)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caPEM) {
		return fmt.Errorf("%s holds no CA certificate", r.files.CA)
	}
	r.stamps, r.pair, r.pool = stamps, &pair, pool
	return nil
}

func (r *reloader) current() (*tls.Certificate, *x509.CertPool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if stamps, err := r.stat(); err == nil && stamps != r.stamps {
		_ = r.read(stamps) // on failure the stamps stay old: the next handshake tries again
	}
	return r.pair, r.pool
}
