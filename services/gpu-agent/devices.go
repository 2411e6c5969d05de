package gpuagent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cgroup"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cpusource"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/device"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/nvmlsource"
)

// openSource opens the configured source and says which. "nvml" never falls
// back: a host that lost its driver must not quietly offer its CPU instead.
func openSource(cfg Config, lanes device.Isolation, log *zap.Logger) (device.Source, error) {
	if cfg.DeviceSource != "cpu" {
		source, err := nvmlsource.Open(cfg.MPSPipe)
		if err == nil {
			log.Info("devices come from NVML", zap.String("device_source", cfg.DeviceSource))
			return source, nil
		}
		if cfg.DeviceSource == "nvml" {
			return nil, fmt.Errorf("device-source nvml: %w; install the driver, or set device-source to cpu", err)
		}
		if !errors.Is(err, nvmlsource.ErrNoDriver) {
			return nil, fmt.Errorf("device-source auto: there is a driver, but %w", err)
		}
		log.Info("no NVIDIA driver; devices are CPU lanes", zap.String("device_source", "auto"), zap.NamedError("nvml", err))
	}
	source, err := cpusource.Open(cfg.CPULanes, int64(cfg.CPULaneMemory), lanes)
	if err != nil {
		return nil, fmt.Errorf("device-source cpu: %w", err)
	}
	log.Info("devices are CPU lanes", zap.Int("cpu_lanes", cfg.CPULanes))
	return source, nil
}

// openGroups finds what holds trainers to their host memory, and how hard that
// is. Groups that an earlier agent's killed supervisors left are removed.
func openGroups(cfg Config, log *zap.Logger) (host.Groups, device.Isolation, error) {
	if cfg.HostLimits == "watch" {
		return nil, device.Watched, nil
	}
	groups, err := cgroup.Detect("/proc", cfg.StateDir)
	if err != nil {
		if cfg.HostLimits == "cgroup" {
			return nil, "", fmt.Errorf("host-limits cgroup: %w; run the agent in a delegated control group, or set host-limits to watch", err)
		}
		log.Info("no control groups: trainers' host memory is only watched", zap.NamedError("cgroup", err))
		return nil, device.Watched, nil
	}
	if err := groups.Sweep(); err != nil {
		log.Warn("old control groups stay", zap.Error(err))
	}
	log.Info("control groups hold trainers to their host memory")
	return groups, device.Cgroup, nil
}

// processes gives launch's processes the interface that the host declares.
type processes struct{ launcher *launch.Launcher }

func (p processes) Start(ctx context.Context, dir string, spec launch.Spec, token []byte) (host.Process, error) {
	process, err := p.launcher.Start(ctx, dir, spec, token)
	if err != nil {
		return nil, err
	}
	return process, nil
}

func (p processes) Adopt(ctx context.Context, dir string) (host.Process, error) {
	process, err := p.launcher.Adopt(ctx, dir)
	if err != nil {
		return nil, err
	}
	return process, nil
}

// transferClient moves checkpoint bytes. It follows no redirect: a presigned
// request is for one host.
func transferClient(caFile string) (*http.Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	transport.MaxIdleConnsPerHost = 16
	transport.ResponseHeaderTimeout = 30 * time.Second
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, fmt.Errorf("s3-ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("s3-ca: %s holds no PEM certificate", caFile)
		}
		transport.TLSClientConfig.RootCAs = pool
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}
