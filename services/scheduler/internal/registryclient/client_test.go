package registryclient_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/registryclient"
)

// pages answers ListModelHistory from a script.
type pages struct {
	answers []*registryv1.ListModelHistoryResponse
	err     error
}

func (p *pages) Invoke(_ context.Context, _ string, _, reply any, _ ...grpc.CallOption) error {
	if p.err != nil {
		return p.err
	}
	proto.Merge(reply.(proto.Message), p.answers[0])
	p.answers = p.answers[1:]
	return nil
}

func (p *pages) NewStream(context.Context, *grpc.StreamDesc, string, ...grpc.CallOption) (grpc.ClientStream, error) {
	return nil, errors.New("no streams here")
}

func TestPromoted(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 1, 0, 0, 0, 0, time.UTC)
	registered := &registryv1.ModelEvent{ToStage: registryv1.Stage_STAGE_NONE, Time: timestamppb.New(at.Add(time.Hour))}
	promoted := &registryv1.ModelEvent{ToStage: registryv1.Stage_STAGE_PRODUCTION, Time: timestamppb.New(at)}
	older := &registryv1.ModelEvent{ToStage: registryv1.Stage_STAGE_PRODUCTION, Time: timestamppb.New(at.Add(-time.Hour))}
	for name, c := range map[string]struct {
		pages  pages
		want   time.Time
		failed bool
	}{
		"the newest promotion, on the second page": {pages: pages{answers: []*registryv1.ListModelHistoryResponse{
			{Events: []*registryv1.ModelEvent{registered}, NextPageToken: "x"}, {Events: []*registryv1.ModelEvent{promoted, older}},
		}}, want: at},
		"never promoted":  {pages: pages{answers: []*registryv1.ListModelHistoryResponse{{Events: []*registryv1.ModelEvent{registered}}}}},
		"no such model":   {pages: pages{err: rpcerr.NotFound("model bull does not exist")}},
		"a registry away": {pages: pages{err: rpcerr.Unavailable("away")}, failed: true},
	} {
		got, err := registryclient.New(&c.pages).Promoted(t.Context(), "bull")
		if !got.Equal(c.want) || (err != nil) != c.failed {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
}
