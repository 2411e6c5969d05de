package gpuagent

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
)

// Config is everything a gpu-agent process is told. Its flags, and environment
// with the prefix TRAINYARD_AGENT_, are listed by --help.
type Config struct {
	Listen       string `conf:"listen" default:"127.0.0.1:0" usage:"host:port to serve people (logs, health) on"`
	AdminListen  string `conf:"admin-listen" usage:"host:port for /metrics and, on loopback, pprof; empty serves neither"`
	TLSCert      string `conf:"tls-cert" required:"true" usage:"PEM file of this agent's certificate"`
	TLSKey       string `conf:"tls-key" required:"true" usage:"PEM file of its key"`
	TLSCA        string `conf:"tls-ca" required:"true" usage:"PEM file of the authority of all services"`
	OTLPEndpoint string `conf:"otlp-endpoint" usage:"OTLP gRPC receiver for traces, of trainers too; empty exports nothing"`
	LogLevel     string `conf:"log-level" default:"info" usage:"debug, info, warn or error"`

	AgentName string            `conf:"agent-name" usage:"name of this host in the fleet, equal to the name in its certificate; empty takes the host name"`
	Labels    map[string]string `conf:"labels" usage:"labels of this host that demands may ask for"`
	Scheduler string            `conf:"scheduler" required:"true" usage:"host:port of the scheduler, or of all its replicas with commas between them: the agent follows the one that leads"`
	Registry  string            `conf:"registry" required:"true" usage:"host:port of the registry"`
	S3CA      string            `conf:"s3-ca" usage:"PEM file of the object store's authority; empty means the system's"`

	StateDir       string `conf:"state-dir" required:"true" usage:"directory of journal, spools and attempts; one agent per directory"`
	Socket         string `conf:"socket" usage:"unix socket for trainers; empty means agent.sock in state-dir"`
	CacheDir       string `conf:"cache-dir" usage:"feature cache shared by all trainers; empty means cache in state-dir"`
	TrainerBinary  string `conf:"trainer-binary" required:"true" usage:"the trainer program"`
	DataServiceURL string `conf:"data-service-url" required:"true" usage:"base URL of the Data Service"`

	DeviceSource  string       `conf:"device-source" default:"auto" usage:"nvml, cpu, or auto (nvml where there is a driver, else cpu)"`
	CPULanes      int          `conf:"cpu-lanes" default:"1" usage:"CPU lanes to offer"`
	CPULaneMemory config.Bytes `conf:"cpu-lane-memory" default:"0" usage:"memory of one lane; 0 means an equal share of three quarters of the host's"`
	HostLimits    string       `conf:"host-limits" default:"auto" usage:"what holds trainers to their host memory: cgroup, watch, or auto (cgroup where this process may make groups, else watch)"`
	MPSPipe       string       `conf:"mps-pipe-directory" default:"/tmp/nvidia-mps" usage:"pipe directory of the host's MPS server; shared GPUs get its memory limit while the server runs"`

	MLflowURL    string `conf:"mlflow-url" usage:"base URL of the registry's MLflow API, for clients inside jobs; empty means that there is none"`
	MLflowListen string `conf:"mlflow-listen" default:"127.0.0.1:0" usage:"loopback host:port of the proxy that jobs reach it by"`

	OrphanTimeout    time.Duration `conf:"orphan-timeout" default:"10m" usage:"trainers end when no agent lived for this long"`
	SettleTime       time.Duration `conf:"settle-time" default:"5s" usage:"how long the end of an attempt waits for its last uploads before it is reported"`
	SpoolSize        config.Bytes  `conf:"spool-size" default:"256MiB" usage:"bound of one attempt's metric spool"`
	StagingSize      config.Bytes  `conf:"staging-size" default:"16GiB" usage:"bound of one attempt's staged checkpoints"`
	WorkSize         config.Bytes  `conf:"work-size" default:"64GiB" usage:"quota of one attempt's work directory; who goes over it is evicted"`
	TierSize         config.Bytes  `conf:"tier-size" default:"16GiB" usage:"bound of the newest checkpoints kept on the host"`
	ShareTensorsFrom config.Bytes  `conf:"share-tensors-from" default:"16KiB" usage:"least size of a tensor that is stored by itself, so that checkpoints share it; 0 stores files whole"`
	LogSize          config.Bytes  `conf:"log-size" default:"8MiB" usage:"bound of each of a trainer's two output files"`
	KeepEnded        int           `conf:"keep-ended" default:"200" usage:"ended attempts whose output is kept"`
}

// Validate checks what single fields cannot tell.
func (c *Config) Validate() []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		add("listen: %q is not host:port", c.Listen)
	}
	for key, target := range map[string]string{"scheduler": c.Scheduler, "registry": c.Registry} {
		if err := rpcclient.CheckTarget(target); err != nil {
			add("%s: %v", key, err)
		}
	}
	if u, err := url.Parse(c.DataServiceURL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		add("data-service-url: %q is not an http or https URL", c.DataServiceURL)
	}
	if info, err := os.Stat(c.TrainerBinary); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
		add("trainer-binary: %s is not a program", c.TrainerBinary)
	}
	switch c.DeviceSource {
	case "auto", "nvml", "cpu":
	default:
		add("device-source: %q is none of auto, nvml, cpu", c.DeviceSource)
	}
	switch c.HostLimits {
	case "auto", "cgroup", "watch":
	default:
		add("host-limits: %q is none of auto, cgroup, watch", c.HostLimits)
	}
	if u, err := url.Parse(c.MLflowURL); c.MLflowURL != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		add("mlflow-url: %q is not an http or https URL", c.MLflowURL)
	}
	if h, _, err := net.SplitHostPort(c.MLflowListen); err != nil || !net.ParseIP(h).IsLoopback() {
		add("mlflow-listen: %q is not a loopback host:port, such as 127.0.0.1:0", c.MLflowListen)
	}
	if c.WorkSize < 1<<20 {
		add("work-size: %s is less than 1MiB", c.WorkSize)
	}
	if c.CPULanes < 1 || c.CPULanes > 256 {
		add("cpu-lanes: %d is not between 1 and 256", c.CPULanes)
	}
	if c.OrphanTimeout < time.Second {
		add("orphan-timeout: %s is shorter than a restart of the agent (at least 1s)", c.OrphanTimeout)
	}
	if c.LogSize < 4096 {
		add("log-size: %s is less than 4KiB", c.LogSize)
	}
	return problems
}
