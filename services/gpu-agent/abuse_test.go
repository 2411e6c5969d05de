package gpuagent_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

func (b *bench) trainers() trainv1.TrainServiceClient {
	b.t.Helper()
	conn, err := rpcclient.Dial("unix://"+filepath.Join(b.state, "s", "agent.sock"), rpcclient.Options{MaxReceive: 8 << 20})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			b.t.Error(err)
		}
	})
	return trainv1.NewTrainServiceClient(conn)
}

func randomToken(t *testing.T) []byte {
	token := make([]byte, 32)
	if _, err := rand.Read(token); err != nil {
		t.Fatal(err)
	}
	return token
}

// Whoever lies to the agent is refused with a reason, and the trainer that runs
// meanwhile notices nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=100000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	client := b.trainers()
	open := func(token []byte) *trainv1.TrainRequest {
		return &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Open{Open: &trainv1.Open{Token: token}}}
	}
	metric := func(sequence uint64, key string) *trainv1.TrainRequest {
		return &trainv1.TrainRequest{Sequence: sequence, Frame: &trainv1.TrainRequest_Metrics{Metrics: &trainv1.MetricBatch{
			Points: []*trainv1.MetricPoint{{Key: key}},
		}}}
	}
	for name, c := range map[string]struct {
		frame  *trainv1.TrainRequest
		code   codes.Code
		reason errorv1.Reason
	}{
		"unknown token":     {open(randomToken(t)), codes.Unauthenticated, errorv1.Reason_REASON_UNAUTHENTICATED},
		"short token":       {open([]byte("x")), codes.InvalidArgument, errorv1.Reason_REASON_INVALID_FIELDS},
		"no Open":           {metric(1, "a"), codes.InvalidArgument, errorv1.Reason_REASON_PROTOCOL_VIOLATION},
		"empty frame":       {&trainv1.TrainRequest{}, codes.InvalidArgument, errorv1.Reason_REASON_INVALID_FIELDS},
		"bad key":           {metric(1, "\x00"), codes.InvalidArgument, errorv1.Reason_REASON_INVALID_FIELDS},
		"oversized frame":   {&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_OutOfMemory{OutOfMemory: &trainv1.OutOfMemory{Message: string(make([]byte, 5<<20))}}}, codes.ResourceExhausted, 0},
		"Open in its place": {&trainv1.TrainRequest{Sequence: 4, Frame: open(randomToken(t)).Frame}, codes.InvalidArgument, errorv1.Reason_REASON_PROTOCOL_VIOLATION},
	} {
		stream, err := client.Train(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(c.frame); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		_, err = stream.Recv()
		if status.Code(err) != c.code || c.reason != 0 && rpcerr.ReasonOf(err) != c.reason {
			t.Errorf("%s: %v", name, err)
		}
	}
	sum := sha256.Sum256(nil)
	header := func(token []byte) *trainv1.PushArtifactRequest {
		return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Header{Header: &trainv1.ArtifactHeader{Token: token, SizeBytes: 1}}}
	}
	footer := &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Footer{Footer: &trainv1.ArtifactFooter{Sha256: sum[:]}}}
	for name, c := range map[string]struct {
		frame *trainv1.PushArtifactRequest
		code  codes.Code
	}{
		"push with an unknown token": {header(randomToken(t)), codes.Unauthenticated},
		"push without a header":      {footer, codes.InvalidArgument},
	} {
		push, err := client.PushArtifact(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := push.Send(c.frame); err != nil && !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		if _, err := push.CloseAndRecv(); status.Code(err) != c.code {
			t.Errorf("%s: %v", name, err)
		}
	}
	before, _, _ := b.registry.steps(1)
	b.until("more steps", func() bool { steps, _, _ := b.registry.steps(1); return len(steps) > len(before)+20 })
}

// The socket is this user's alone, and the token is nowhere to be read.
func TestSecrets(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.assign(1, 0, "steps=100000 every=5ms")
	b.until("the trainer", func() bool { return b.scheduler.phase(1) == fleetv1.HeldLease_PHASE_RUNNING })
	b.checkSocketMode()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	// A guess at the token from anything that lies on disk is refused.
	for _, guess := range b.tokenHashes() {
		stream, err := b.trainers().Train(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Open{Open: &trainv1.Open{Token: guess}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); status.Code(err) != codes.Unauthenticated {
			t.Fatalf("a stored hash opened the stream: %v", err)
		}
	}
}
