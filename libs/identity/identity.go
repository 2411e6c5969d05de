// Package identity says who is on the other end of a connection. Every process
// has an X.509 certificate whose only URI SAN is its SPIFFE id,
// spiffe://trainyard/<role>/<name>; roles are what allow-lists speak of, names are
// what audits and logs show. Our own clients ignore host names in certificates: a
// service is trusted for its role wherever it listens.
package identity

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// TrustDomain is the authority part of every SPIFFE id here.
const TrustDomain = "trainyard"

// Role is the kind of a caller or server, the unit of authorization.
type Role string

// The roles. Inference is the service that resolves and downloads models. Trainer
// never holds a certificate: the agent gives this role to a process that showed its
// lease token on the agent's socket.
const (
	RoleScheduler Role = "scheduler"
	RoleAgent     Role = "agent"
	RoleRegistry  Role = "registry"
	RoleJanitor   Role = "janitor"
	RolePerson    Role = "person"
	RoleInference Role = "inference"
	RoleTrainer   Role = "trainer"
)

// Roles lists every role.
func Roles() []Role {
	return []Role{RoleScheduler, RoleAgent, RoleRegistry, RoleJanitor, RolePerson, RoleInference, RoleTrainer}
}

// Valid reports whether r is one of Roles.
func (r Role) Valid() bool {
	for _, known := range Roles() {
		if r == known {
			return true
		}
	}
	return false
}

// ID is one identity.
type ID struct {
	Role Role
	Name string
}

// String gives "role/name", the form of logs and audit rows.
func (id ID) String() string { return string(id.Role) + "/" + id.Name }

// URI gives the SPIFFE id.
func (id ID) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: TrustDomain, Path: "/" + id.String()}
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

func (id ID) validate() error {
	if !id.Role.Valid() {
		return fmt.Errorf("unknown role %q; the roles are %v", id.Role, Roles())
	}
	if !nameForm.MatchString(id.Name) {
		return fmt.Errorf("the name %q of a %s must be 1 to 63 letters, digits, '.', '_' or '-', beginning with a letter or digit", id.Name, id.Role)
	}
	return nil
}

// ParseURI reads a SPIFFE id of our trust domain.
func ParseURI(u *url.URL) (ID, error) {
	if u.Scheme != "spiffe" || u.Host != TrustDomain || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return ID{}, fmt.Errorf("%q is not of the form spiffe://%s/<role>/<name>", u.Redacted(), TrustDomain)
	}
	role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	id := ID{Role: Role(role), Name: name}
	return id, id.validate()
}

// FromCertificate reads the identity of a verified certificate. SPIFFE allows
// exactly one URI; more would let one certificate be two callers.
func FromCertificate(c *x509.Certificate) (ID, error) {
	if len(c.URIs) != 1 {
		return ID{}, fmt.Errorf("the certificate has %d URI names, a SPIFFE certificate has exactly one", len(c.URIs))
	}
	return ParseURI(c.URIs[0])
}

type contextKey struct{}

// NewContext returns ctx with the caller's identity. rpcserver calls it for every
// request that it has authenticated.
func NewContext(ctx context.Context, id ID) context.Context {
	return context.WithValue(ctx, contextKey{}, id)
}

// FromContext returns the authenticated caller of a request.
func FromContext(ctx context.Context) (ID, bool) {
	id, ok := ctx.Value(contextKey{}).(ID)
	return id, ok
}
