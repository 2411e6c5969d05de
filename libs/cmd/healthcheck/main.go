// Command healthcheck asks a service whether it serves, and exits 0 when it does. An image built from scratch has no shell and
// no curl: this is what its health check runs, with the service's own certificate.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
)

// settings are the flags.
type settings struct {
	Address string        `conf:"address" required:"true" usage:"host:port of the service"`
	Role    string        `conf:"role" required:"true" usage:"role that the service must have: scheduler, registry or janitor"`
	TLSCert string        `conf:"tls-cert" required:"true" usage:"PEM certificate to show"`
	TLSKey  string        `conf:"tls-key" required:"true" usage:"PEM key of the certificate"`
	TLSCA   string        `conf:"tls-ca" required:"true" usage:"PEM certificates of the authority"`
	Timeout time.Duration `conf:"timeout" default:"3s" usage:"how long to wait for the answer"`
}

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		var s settings
		if err := config.Load("healthcheck", &s, os.Args[1:]); err != nil {
			return err
		}
		return check(ctx, s)
	})
}

func check(ctx context.Context, s settings) error {
	ctx, cancel := context.WithTimeout(ctx, s.Timeout)
	defer cancel()
	tls, err := identity.ClientTLS(identity.Files{Cert: s.TLSCert, Key: s.TLSKey, CA: s.TLSCA}, identity.Role(s.Role))
	if err != nil {
		return err
	}
	conn, err := rpcclient.Dial(s.Address, rpcclient.Options{TLS: tls})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // the process ends here
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("%s at %s says %s", s.Role, s.Address, answer.GetStatus())
	}
	return nil
}
