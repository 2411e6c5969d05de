package mesh

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

// maxAnswer bounds one answer: a long metric history or a whole plan.
const maxAnswer = 64 << 20

// Clients talk to a mesh's services as a person. Connections are made when they
// are first used.
type Clients struct {
	Jobs    jobv1.JobServiceClient
	Fleet   fleetv1.FleetServiceClient
	Arrays  jobv1.ArrayServiceClient
	Graphs  jobv1.GraphServiceClient
	Quotas  jobv1.QuotaServiceClient
	Timer   jobv1.ScheduleServiceClient
	Models  registryv1.ModelServiceClient
	Runs    registryv1.RunServiceClient
	Mirror  registryv1.MirrorServiceClient
	Janitor janitorv1.JanitorServiceClient
	Imports registryv1.ImportServiceClient

	person   identity.Files
	log      *zap.Logger
	conns    []*grpc.ClientConn
	registry *grpc.ClientConn
}

// Registry is the connection to the registry, for clients that bring their own calls.
func (c *Clients) Registry() grpc.ClientConnInterface { return c.registry }

// Connect makes the clients of a mesh. log gets failed calls; nil means none.
func (m *Mesh) Connect(log *zap.Logger) (*Clients, error) {
	c := &Clients{person: m.Person, log: log}
	scheduler, err := c.dial(m.Scheduler, identity.RoleScheduler)
	if err != nil {
		return nil, err
	}
	registry, err := c.dial(m.Registry, identity.RoleRegistry)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	janitor, err := c.dial(m.Janitor, identity.RoleJanitor)
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	c.registry = registry
	c.Jobs, c.Fleet = jobv1.NewJobServiceClient(scheduler), fleetv1.NewFleetServiceClient(scheduler)
	c.Arrays, c.Graphs = jobv1.NewArrayServiceClient(scheduler), jobv1.NewGraphServiceClient(scheduler)
	c.Quotas, c.Timer = jobv1.NewQuotaServiceClient(scheduler), jobv1.NewScheduleServiceClient(scheduler)
	c.Models, c.Runs = registryv1.NewModelServiceClient(registry), registryv1.NewRunServiceClient(registry)
	c.Mirror = registryv1.NewMirrorServiceClient(registry)
	c.Imports = registryv1.NewImportServiceClient(registry)
	c.Janitor = janitorv1.NewJanitorServiceClient(janitor)
	return c, nil
}

// Logs returns the log client of the agent that listens on an address.
func (c *Clients) Logs(address string) (trainv1.LogServiceClient, error) {
	conn, err := c.dial(address, identity.RoleAgent)
	if err != nil {
		return nil, err
	}
	return trainv1.NewLogServiceClient(conn), nil
}

func (c *Clients) dial(target string, role identity.Role) (*grpc.ClientConn, error) {
	tls, err := identity.ClientTLS(c.person, role)
	if err != nil {
		return nil, err
	}
	conn, err := rpcclient.Dial(target, rpcclient.Options{TLS: tls, Log: c.log, MaxReceive: maxAnswer})
	if err != nil {
		return nil, err
	}
	c.conns = append(c.conns, conn)
	return conn, nil
}

// Close ends every connection.
func (c *Clients) Close() error {
	var err error
	for _, conn := range c.conns {
		err = errors.Join(err, conn.Close())
	}
	c.conns = nil
	return err
}

// Store returns a client for presigned requests to the object store, whose certificate may be of an authority of its own.
func (m *Mesh) Store() (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	if m.S3CA != "" {
		pem, err := os.ReadFile(m.S3CA)
		if err != nil {
			return nil, fmt.Errorf("the object store's authority: %w", err)
		}
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("the object store's authority: %s has no certificate", m.S3CA)
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	}
	return &http.Client{Transport: transport}, nil
}
