// Package registryclient asks the registry what jobs wait for: promotions.
package registryclient

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// Client implements cycle.Promotions.
type Client struct{ models registryv1.ModelServiceClient }

// New asks over a connection to the registry.
func New(conn grpc.ClientConnInterface) *Client {
	return &Client{registryv1.NewModelServiceClient(conn)}
}

var _ cycle.Promotions = (*Client)(nil)

const (
	// askLimit bounds one question.
	askLimit = 5 * time.Second
	pageSize = 1000
)

// Promoted is when a version of the model last became the PRODUCTION one; zero
// means never, or that the model does not exist yet.
func (c *Client) Promoted(ctx context.Context, model string) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	in := &registryv1.ListModelHistoryRequest{ModelName: model, PageSize: pageSize}
	for {
		page, err := c.models.ListModelHistory(ctx, in)
		if e := rpcerr.FromError(err); e != nil && e.Code() == codes.NotFound {
			return time.Time{}, nil
		}
		if err != nil {
			return time.Time{}, err
		}
		for _, e := range page.GetEvents() {
			if e.GetToStage() == registryv1.Stage_STAGE_PRODUCTION {
				return e.GetTime().AsTime(), nil
			}
		}
		if in.PageToken = page.GetNextPageToken(); in.GetPageToken() == "" {
			return time.Time{}, nil
		}
	}
}
