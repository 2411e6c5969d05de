package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func newAuthority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func issue(t *testing.T, a *Authority, role Role, name string) Files {
	t.Helper()
	f, err := a.Issue(role, name)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// handshake connects a client to a server and returns what each side says, and whom
// the server saw.
func handshake(t *testing.T, server, client *tls.Config) (caller ID, serverErr, clientErr error) {
	t.Helper()
	a, b := net.Pipe()
	defer func() { _ = errors.Join(a.Close(), b.Close()) }()
	done := make(chan error, 1)
	sc := tls.Server(a, server)
	go func() {
		err := sc.HandshakeContext(t.Context())
		if err == nil {
			_, err = sc.Write([]byte("k")) // in TLS 1.3 the client learns of a refusal only at its first read
		}
		done <- errors.Join(err, a.Close())
	}()
	cc := tls.Client(b, client)
	clientErr = cc.HandshakeContext(t.Context())
	if clientErr == nil {
		_, clientErr = io.ReadFull(cc, make([]byte, 1))
	}
	_ = b.Close()
	serverErr = <-done
	if serverErr == nil {
		id, err := FromCertificate(sc.ConnectionState().PeerCertificates[0])
		if err != nil {
			t.Error(err)
		}
		caller = id
	}
	return caller, serverErr, clientErr
}

func configs(t *testing.T, server, client Files, wants Role) (*tls.Config, *tls.Config) {
	t.Helper()
	s, err := ServerTLS(server)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ClientTLS(client, wants)
	if err != nil {
		t.Fatal(err)
	}
	return s, c
}

func TestBothSidesKnowEachOther(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	s, c := configs(t, issue(t, a, RoleScheduler, "main"), issue(t, a, RoleAgent, "host-1"), RoleScheduler)
	caller, serr, cerr := handshake(t, s, c)
	if serr != nil || cerr != nil || caller != (ID{RoleAgent, "host-1"}) {
		t.Errorf("server %v, client %v, caller %v", serr, cerr, caller)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	a, other := newAuthority(t), newAuthority(t)
	server, agent := issue(t, a, RoleScheduler, "main"), issue(t, a, RoleAgent, "host-1")
	foreign := issue(t, other, RoleAgent, "host-1")
	foreign.CA = agent.CA // it trusts our CA, but ours did not sign it
	foreignServer := issue(t, other, RoleScheduler, "main")
	foreignServer.CA = server.CA

	s, c := configs(t, server, foreign, RoleScheduler)
	if _, serr, cerr := handshake(t, s, c); serr == nil || cerr == nil {
		t.Errorf("a client of another CA got in: %v, %v", serr, cerr)
	}
	s, c = configs(t, foreignServer, agent, RoleScheduler)
	if _, _, cerr := handshake(t, s, c); cerr == nil || !strings.Contains(cerr.Error(), "not from our CA") {
		t.Errorf("a server of another CA was believed: %v", cerr)
	}
	s, c = configs(t, server, agent, RoleRegistry)
	if _, _, cerr := handshake(t, s, c); cerr == nil || !strings.Contains(cerr.Error(), "this client wants a registry") {
		t.Errorf("a server of another role was believed: %v", cerr)
	}
	s, _ = configs(t, server, agent, RoleScheduler)
	if _, serr, _ := handshake(t, s, &tls.Config{InsecureSkipVerify: true}); serr == nil {
		t.Error("a client without a certificate got in")
	}
	s, c = configs(t, server, agent, RoleScheduler)
	c.MinVersion, c.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serr, _ := handshake(t, s, c); serr == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

// touch makes a change visible to a clock of any resolution.
func touch(t *testing.T, f Files, at time.Time) {
	t.Helper()
	for _, p := range []string{f.Cert, f.Key, f.CA} {
		if err := os.Chtimes(p, at, at); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRotationNeedsNoRestartAndABadOneDoesNoHarm(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	server, agent := issue(t, a, RoleScheduler, "main"), issue(t, a, RoleAgent, "host-1")
	s, c := configs(t, server, agent, RoleScheduler)
	serialOf := func() string {
		t.Helper()
		var got string
		cc := c.Clone()
		inner := cc.VerifyConnection
		cc.VerifyConnection = func(cs tls.ConnectionState) error {
			got = cs.PeerCertificates[0].SerialNumber.String()
			return inner(cs)
		}
		if _, serr, cerr := handshake(t, s, cc); serr != nil || cerr != nil {
			t.Fatalf("server %v, client %v", serr, cerr)
		}
		return got
	}
	first := serialOf()
	server = issue(t, a, RoleScheduler, "main")
	touch(t, server, time.Now().Add(time.Minute))
	second := serialOf()
	if first == second {
		t.Error("the new certificate is not used")
	}
	// Half of a rotation: the key no longer fits.
	stranger := issue(t, a, RoleScheduler, "other")
	key, err := os.ReadFile(stranger.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(server.Key, key, 0o600); err != nil {
		t.Fatal(err)
	}
	touch(t, server, time.Now().Add(2*time.Minute))
	if got := serialOf(); got != second {
		t.Errorf("a broken pair changed the certificate: %s", got)
	}
}

func TestAuthorityIsKept(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	again, err := NewAuthority(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	if !again.cert.Equal(a.cert) {
		t.Error("opening the authority again made a new one")
	}
	f := issue(t, again, RolePerson, "ann")
	for _, p := range []string{f.Key, a.keyFile()} {
		if info, err := os.Stat(p); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v, want mode 0600", p, info.Mode(), err)
		}
	}
	if err := os.WriteFile(a.CAFile(), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(a.dir); err == nil || !strings.Contains(err.Error(), "delete both") {
		t.Errorf("a damaged CA: %v, want advice", err)
	}
}

func TestBadFilesSayWhatToDo(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	f := issue(t, a, RoleAgent, "h")
	for want, files := range map[string]Files{
		"tls-cert, tls-key and tls-ca": {Cert: "/no/such", Key: f.Key, CA: f.CA},
		"holds no CA certificate":      {Cert: f.Cert, Key: f.Key, CA: f.Key},
		"with key":                     {Cert: f.Cert, Key: f.Cert, CA: f.CA},
		"has 0 URI names":              {Cert: a.CAFile(), Key: a.keyFile(), CA: f.CA},
	} {
		if _, err := ServerTLS(files); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", files, err, want)
		}
	}
	if _, err := ClientTLS(f, "wizard"); err == nil {
		t.Error("an unknown role was taken")
	}
}

func TestURIRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := ID{rapid.SampledFrom(Roles()).Draw(t, "role"), rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,20}`).Draw(t, "name")}
		u, err := url.Parse(id.URI().String())
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseURI(u); err != nil || got != id {
			t.Fatalf("%v -> %s -> %v, %v", id, u, got, err)
		}
	})
}

func TestParseURIRefusesLookalikes(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"https://trainyard/agent/a", "spiffe://other/agent/a", "spiffe://trainyard/agent", "spiffe://trainyard/agent/", "spiffe://trainyard/wizard/a",
		"spiffe://trainyard/agent/a/b", "spiffe://trainyard/agent/..", "spiffe://trainyard/agent/a?x=1", "spiffe://trainyard/agent/a#f", "spiffe://u@trainyard/agent/a", "spiffe://trainyard:1/agent/a", "spiffe://trainyard/agent/a%0Ab",
	} {
		u, err := url.Parse(s)
		if err != nil {
			continue
		}
		if id, err := ParseURI(u); err == nil {
			t.Errorf("%s was read as %v", s, id)
		}
	}
	two := &x509.Certificate{URIs: []*url.URL{ID{RoleAgent, "a"}.URI(), ID{RoleRegistry, "b"}.URI()}}
	if id, err := FromCertificate(two); err == nil {
		t.Errorf("a certificate with two ids was read as %v", id)
	}
	if _, err := newAuthority(t).Issue(RoleAgent, "a/../b"); err == nil {
		t.Error("a path was taken as a name")
	}
}

func TestAHostCertificateIsNobody(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	f, err := a.IssueHost("s3")
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := FromCertificate(pair.Leaf); err == nil {
		t.Errorf("a host certificate is %v", id)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: "s3"}); err != nil {
		t.Errorf("a client that knows host names: %v", err)
	}
	for _, host := range []string{"ca", "", "../x", "a b"} {
		if _, err := a.IssueHost(host); err == nil {
			t.Errorf("%q was taken as a host name", host)
		}
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	if _, ok := FromContext(context.Background()); ok {
		t.Error("an empty context has a caller")
	}
	want := ID{RoleJanitor, "j"}
	if got, ok := FromContext(NewContext(t.Context(), want)); !ok || got != want {
		t.Errorf("got %v", got)
	}
}
