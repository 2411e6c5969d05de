package s3server

import (
	"crypto/tls"
	"path/filepath"
	"testing"
)

func TestTheCertificateFollowsTheAddress(t *testing.T) {
	t.Parallel()
	cert, key := filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	serial := func(listen string, names ...string) string {
		t.Helper()
		if err := ensureCertificate(cert, key, listen); err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(names, "127.0.0.1", "localhost") {
			if err := pair.Leaf.VerifyHostname(name); err != nil {
				t.Errorf("listening on %s: %v", listen, err)
			}
		}
		return pair.Leaf.SerialNumber.String()
	}
	first := serial("127.0.0.1:1")
	if serial("127.0.0.1:2") != first || serial("0.0.0.0:1") != first || serial(":1") != first {
		t.Error("the certificate changed without need")
	}
	if serial("10.1.2.3:1", "10.1.2.3") == first || serial("s3.example:1", "s3.example") == first {
		t.Error("the certificate does not name the new address")
	}
	if err := ensureCertificate(cert, key, "no-port"); err == nil {
		t.Error("an address without a port was taken")
	}
}
