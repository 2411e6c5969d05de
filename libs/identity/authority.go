package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// Lifetimes of the development authority. Leaves are short because issuing them
// again costs a millisecond and running processes reload them.
const (
	caLifetime   = 10 * 365 * 24 * time.Hour
	leafLifetime = 30 * 24 * time.Hour
	// Clocks of hosts differ; a certificate from the future is refused by TLS.
	backdate = 5 * time.Minute
)

// Files are the PEM files of one identity.
type Files struct{ Cert, Key, CA string }

// Authority is a development CA kept in a directory: ca.pem and ca-key.pem. For
// a cluster, bring certificates from your own CA (SPIRE, cert-manager): services
// only read Files and the SPIFFE id in them.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority opens the CA in dir, making the directory and the CA when missing.
func NewAuthority(dir string) (*Authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the certificate directory: %w", err)
	}
	a := &Authority{dir: dir}
	err := a.load()
	if errors.Is(err, fs.ErrNotExist) {
		err = a.create()
	}
	if err != nil {
		return nil, fmt.Errorf("development CA in %s: %w", dir, err)
	}
	return a, nil
}

// CAFile is the path of the CA certificate.
func (a *Authority) CAFile() string { return filepath.Join(a.dir, "ca.pem") }

func (a *Authority) keyFile() string { return filepath.Join(a.dir, "ca-key.pem") }

func (a *Authority) load() error {
	certPEM, err := os.ReadFile(a.CAFile())
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(a.keyFile())
	if err != nil {
		return err
	}
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return errors.New("ca.pem or ca-key.pem is damaged; delete both to make a new CA")
	}
	if a.cert, err = x509.ParseCertificate(cb.Bytes); err != nil {
		return fmt.Errorf("ca.pem is damaged (%w); delete ca.pem and ca-key.pem to make a new CA", err)
	}
	if a.key, err = x509.ParseECPrivateKey(kb.Bytes); err != nil {
		return fmt.Errorf("ca-key.pem is damaged (%w); delete ca.pem and ca-key.pem to make a new CA", err)
	}
	if !a.key.PublicKey.Equal(a.cert.PublicKey) {
		return errors.New("ca.pem and ca-key.pem do not belong together; delete both to make a new CA")
	}
	if time.Now().After(a.cert.NotAfter) {
		return fmt.Errorf("the CA expired on %s; delete ca.pem and ca-key.pem to make a new one", a.cert.NotAfter.Format(time.DateOnly))
	}
	return nil
}

func (a *Authority) create() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: "Trainyard development CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLifetime),
		IsCA:                  true,
		MaxPathLenZero:        true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	a.key = key
	// Key first: load treats a lone key as "no CA" and a lone certificate as damage.
	if err := writeKey(a.keyFile(), key); err != nil {
		return err
	}
	return writePEM(a.CAFile(), "CERTIFICATE", der, 0o644)
}

// Issue makes a certificate for role and name, valid for 30 days, and writes
// <role>-<name>.pem and <role>-<name>-key.pem. Calling it again replaces both: a
// running process that has loaded them takes the new ones at its next handshake.
func (a *Authority) Issue(role Role, name string) (Files, error) {
	id := ID{Role: role, Name: name}
	if err := id.validate(); err != nil {
		return Files{}, err
	}
	return a.issue(string(role)+"-"+name, id.String(), &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URI()},
		// Our own clients look at the SPIFFE id alone. grpcurl and the Python and TypeScript SDKs know only host names:
		// for them the role is one (it is also the service's name under compose), beside this machine's own.
		DNSNames: []string{string(role), "localhost"},
	})
}

// IssueHost makes a certificate for a server that is not ours and has no role, such as
// the S3 server: host and this machine are its names. Files are <host>.pem and <host>-key.pem.
func (a *Authority) IssueHost(host string) (Files, error) {
	if !nameForm.MatchString(host) || host == "ca" { // ca.pem is the authority's own
		return Files{}, fmt.Errorf("%q cannot be the host name of a certificate", host)
	}
	return a.issue(host, host, &x509.Certificate{
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:    []string{host, "localhost"},
	})
}

// issue fills in what all leaves share, signs and writes.
func (a *Authority) issue(base, subject string, tmpl *x509.Certificate) (Files, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, fmt.Errorf("issue %s: %w", subject, err)
	}
	now := time.Now()
	tmpl.SerialNumber = serial()
	tmpl.Subject = pkix.Name{CommonName: subject}
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-backdate), now.Add(leafLifetime)
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	tmpl.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return Files{}, fmt.Errorf("issue %s: %w", subject, err)
	}
	base = filepath.Join(a.dir, base)
	files := Files{Cert: base + ".pem", Key: base + "-key.pem", CA: a.CAFile()}
	if err := writeKey(files.Key, key); err != nil {
		return Files{}, fmt.Errorf("issue %s: %w", subject, err)
	}
	if err := writePEM(files.Cert, "CERTIFICATE", der, 0o644); err != nil {
		return Files{}, fmt.Errorf("issue %s: %w", subject, err)
	}
	return files, nil
}

func serial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // crypto/rand.Read never fails
	return new(big.Int).SetBytes(b)
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der, 0o600)
}

// writePEM replaces the file in one rename: a process that reloads sees the old or
// the new file, never half of one.
func writePEM(path, kind string, der []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // after the rename there is nothing to remove
	if err := errors.Join(f.Chmod(mode), pem.Encode(f, &pem.Block{Type: kind, Bytes: der}), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
