// Package reach watches whether a host reaches the services that its trainers
// need. The scheduler wakes a job that waits for data only where data is.
package reach

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
)

const (
	interval = 5 * time.Second
	limit    = 3 * time.Second
)

// Reach is safe for concurrent use.
type Reach struct {
	dataURL  string
	registry *grpc.ClientConn
	client   *http.Client

	data, reg atomic.Bool
}

// New watches the Data Service's URL and the registry's connection.
func New(dataURL string, registry *grpc.ClientConn) *Reach {
	return &Reach{dataURL: dataURL, registry: registry, client: &http.Client{Timeout: limit}}
}

// DataService says whether the Data Service answered last time.
func (r *Reach) DataService() bool { return r.data.Load() }

// Registry says whether the connection to the registry stands.
func (r *Reach) Registry() bool { return r.reg.Load() }

// Run looks until ctx ends.
func (r *Reach) Run(ctx context.Context) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (r *Reach) look(ctx context.Context) {
	r.registry.Connect() // an idle connection would never say
	r.reg.Store(r.registry.GetState() == connectivity.Ready)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.dataURL, http.NoBody)
	if err != nil {
		return
	}
	resp, err := r.client.Do(req)
	if err != nil {
		r.data.Store(false)
		return
	}
	_ = resp.Body.Close() // only the status matters
	// Any answer but a server's failure: the path itself need not exist.
	r.data.Store(resp.StatusCode < http.StatusInternalServerError)
}
