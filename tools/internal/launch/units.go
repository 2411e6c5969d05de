package launch

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3server"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
)

// probeTimeout bounds one readiness probe.
const probeTimeout = time.Second

func (l *launcher) postgres() *unit {
	return &unit{name: postgresUnit, start: func(ctx context.Context) (child, error) {
		binaries, err := pgserver.FindInstalled(ctx)
		if err != nil {
			if os.Getenv("TRAINYARD_PG_BIN") == "" {
				l.Event(Event{Unit: postgresUnit, Kind: Installing})
			}
			if binaries, err = pgserver.Find(ctx, l.Log); err != nil {
				return nil, err
			}
		}
		server, err := pgserver.Start(ctx, pgserver.Options{
			Dir: filepath.Join(l.State, "postgres"), Durable: true, Binaries: binaries, Log: l.Log,
		})
		if err != nil {
			return nil, err
		}
		c := serverChild{server: server, name: "Postgres"}
		if err := server.EnsureDatabase(ctx, database); err != nil {
			return nil, errors.Join(err, c.Stop(ctx))
		}
		if l.dsn == "" {
			l.dsn = server.DSN(database)
		}
		return c, nil
	}}
}

func (l *launcher) objectStore() *unit {
	return &unit{name: "s3", start: func(ctx context.Context) (child, error) {
		server, err := s3server.Start(ctx, s3server.Options{
			Binary: filepath.Join(l.bin, "versitygw"), Dir: filepath.Join(l.State, "s3"), Listen: l.address["s3"], Log: l.Log,
		})
		if err != nil {
			return nil, err
		}
		if l.store == nil {
			l.store = server
		}
		return serverChild{server: server, name: "the S3 server"}, nil
	}}
}

func (l *launcher) dataService() *unit {
	args := []string{"--listen=" + l.address["dataservice"]}
	if l.DataDir != "" {
		args = append(args, "--data-dir="+l.DataDir)
	}
	u := l.service("dataservice", "", func() ([]string, []string) { return args, nil })
	u.ready = func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.address["dataservice"]+"/healthz", nil)
		if err != nil {
			return err
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		if response.StatusCode != http.StatusOK {
			err = fmt.Errorf("health: %s", response.Status)
		}
		if cerr := response.Body.Close(); err == nil {
			err = cerr
		}
		return err
	}
	return u
}

func (l *launcher) registry() *unit {
	return l.service("registry", identity.RoleRegistry, func() ([]string, []string) {
		args, env := l.storeSettings("REGISTRY")
		// Open: the address is loopback, and who can reach it on this machine has the state directory's certificates too.
		args = append(args, "--listen="+l.address["registry"], "--mlflow-listen="+l.address["mlflow"], "--mlflow-insecure")
		return args, append(env, "TRAINYARD_REGISTRY_DSN="+l.dsn)
	})
}

// schedulerNames are the units that schedule.
func (l *launcher) schedulerNames() []string {
	if l.Standby {
		return []string{"scheduler", standby}
	}
	return []string{"scheduler"}
}

// schedulerList is what agents and people are given: they follow the one that leads.
func (l *launcher) schedulerList() string {
	var out []string
	for _, name := range l.schedulerNames() {
		out = append(out, l.address[name])
	}
	return strings.Join(out, ",")
}

func (l *launcher) schedulers() []*unit {
	var out []*unit
	for _, name := range l.schedulerNames() {
		u := l.service(name, identity.RoleScheduler, func() ([]string, []string) {
			return []string{"--listen=" + l.address[name], "--registry=" + l.address["registry"], "--history-archive=" + filepath.Join(l.State, "history")}, []string{"TRAINYARD_SCHEDULER_DSN=" + l.dsn}
		})
		// The one that stands by answers nothing, whichever it is.
		u.ready = func(ctx context.Context) error {
			var none error
			for _, name := range l.schedulerNames() {
				err := l.healthy(ctx, l.address[name], identity.RoleScheduler)
				if err == nil {
					return nil
				}
				none = errors.Join(none, err)
			}
			return none
		}
		out = append(out, u)
	}
	return out
}

func (l *launcher) janitor() *unit {
	return l.service("janitor", identity.RoleJanitor, func() ([]string, []string) {
		args, env := l.storeSettings("CHECKPOINT_JANITOR")
		if l.Policy != "" {
			args = append(args, "--policy="+l.Policy)
		}
		// The store is on this machine's disk: watching that is better than a number.
		args = append(args, "--capacity-path="+filepath.Join(l.State, "s3"))
		return append(args, "--listen="+l.address["janitor"], "--registry="+l.address["registry"]),
			append(env, "TRAINYARD_CHECKPOINT_JANITOR_DSN="+l.dsn)
	})
}

// storeSettings is how a service reaches the object store: its keys go through the
// environment, as every process can read a command line.
func (l *launcher) storeSettings(service string) (args, env []string) {
	return []string{"--s3-endpoint=" + l.store.Endpoint, "--s3-bucket=" + bucket, "--s3-ca=" + l.store.CA},
		[]string{"TRAINYARD_" + service + "_S3_ACCESS_KEY=" + l.store.AccessKey, "TRAINYARD_" + service + "_S3_SECRET_KEY=" + l.store.SecretKey}
}

// orphanTimeout is when trainers end after a killed launcher took their agent
// along. It is longer than a restart of the agent with the longest backoff, and far
// below the agent's own default: on one machine nobody comes to adopt them.
const orphanTimeout = 20 * time.Second

func (l *launcher) agent() *unit {
	return l.service("agent", identity.RoleAgent, func() ([]string, []string) {
		source := l.DeviceSource
		if source == "" {
			source = "auto"
		}
		args := []string{
			"--listen=" + l.address["agent"], "--agent-name=" + agentName,
			"--scheduler=" + l.schedulerList(), "--registry=" + l.address["registry"], "--mlflow-url=https://" + l.address["mlflow"],
			"--state-dir=" + filepath.Join(l.State, "agent"), "--trainer-binary=" + filepath.Join(l.bin, "trainer"),
			"--data-service-url=http://" + l.address["dataservice"],
			"--device-source=" + source, "--cpu-lanes=" + strconv.Itoa(l.lanes()), "--s3-ca=" + l.store.CA,
			"--orphan-timeout=" + orphanTimeout.String(),
		}
		if l.CPULaneMemory != "" {
			args = append(args, "--cpu-lane-memory="+l.CPULaneMemory)
		}
		return args, nil
	})
}

// service is the unit of a service program. settings is called at each start:
// what it reads of other parts may have changed with their restart.
func (l *launcher) service(name string, role identity.Role, settings func() (args, env []string)) *unit {
	u := &unit{name: name}
	u.start = func(ctx context.Context) (child, error) {
		args, env := settings()
		args = append(args, "--admin-listen="+l.address[name+"-admin"], "--otlp-endpoint="+l.address["otlp"])
		if l.LogLevel != "" {
			args = append(args, "--log-level="+l.LogLevel)
		}
		if role != "" {
			files := l.files[role]
			args = append(args, "--tls-cert="+files.Cert, "--tls-key="+files.Key, "--tls-ca="+files.CA)
		}
		return program{
			name: name, binary: filepath.Join(l.bin, programs[name]), args: args, env: env,
			log: filepath.Join(l.State, "logs", name+".log"),
		}.start(ctx)
	}
	if role != "" {
		u.ready = func(ctx context.Context) error { return l.healthy(ctx, l.address[name], role) }
	}
	return u
}

// healthy asks a service for its health as a person.
func (l *launcher) healthy(ctx context.Context, address string, role identity.Role) error {
	config, err := identity.ClientTLS(l.files[identity.RolePerson], role)
	if err != nil {
		return err
	}
	return probe(ctx, address, config)
}

// probe makes one health call on a connection of its own: a shared one would sit
// out gRPC's backoff after the first refusal, and the mesh would start slower.
func probe(ctx context.Context, address string, config *tls.Config) (err error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	security := insecure.NewCredentials()
	if config != nil {
		security = credentials.NewTLS(config)
	}
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(security))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(); err == nil {
			err = cerr
		}
	}()
	answer, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil {
		return err
	}
	if answer.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health: %s", answer.GetStatus())
	}
	return nil
}

var notInNames = regexp.MustCompile(`[^A-Za-z0-9.-]+`)

// person is the name in the certificate that commands show: who is at the keyboard.
func person() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if name = notInNames.ReplaceAllString(name, "-"); name == "" {
		return "someone"
	}
	return name
}
