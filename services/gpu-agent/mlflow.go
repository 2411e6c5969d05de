package gpuagent

import (
	"crypto/tls"
	"fmt"
	"net/url"
	"sync/atomic"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/host"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/metrics"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/trackproxy"
)

// tracking is the MLflow proxy, if the host has one. It exists before the host,
// which tells trainers its address, and asks the host who calls.
type tracking struct {
	*trackproxy.Proxy
	host atomic.Pointer[host.Host]
}

func (t *tracking) url() string {
	if t.Proxy == nil {
		return ""
	}
	return t.URL()
}

func (t *tracking) authenticate(token []byte) (trackproxy.Caller, bool) {
	h := t.host.Load()
	if h == nil {
		return trackproxy.Caller{}, false
	}
	a := h.AuthenticateTracking(token)
	if a == nil {
		return trackproxy.Caller{}, false
	}
	return trackproxy.Caller{JobID: a.JobID, Attempt: a.Attempt, Fence: a.Fence, TraceParent: a.TraceParent()}, true
}

// trackProxy listens; without a URL to pass requests on to it does nothing.
func (a *agent) trackProxy(files identity.Files, counters *metrics.Metrics) (*tracking, error) {
	t := &tracking{}
	if a.cfg.MLflowURL == "" {
		return t, nil
	}
	target, err := url.Parse(a.cfg.MLflowURL)
	if err != nil {
		return nil, fmt.Errorf("mlflow-url: %w", err)
	}
	var credentials *tls.Config
	if target.Scheme == "https" {
		if credentials, err = identity.ClientTLS(files, identity.RoleRegistry); err != nil {
			return nil, err
		}
		credentials.NextProtos = []string{"http/1.1"}
	}
	t.Proxy, err = trackproxy.New(trackproxy.Options{
		Listen: a.cfg.MLflowListen, Target: target, TLS: credentials, StateDir: a.cfg.StateDir, Log: a.tel.Log,
		Authenticate: t.authenticate, Refused: counters.TrackingRefused,
	})
	if err != nil {
		return nil, fmt.Errorf("mlflow-listen: %w", err)
	}
	a.keep("mlflow proxy", t.Close)
	return t, nil
}
