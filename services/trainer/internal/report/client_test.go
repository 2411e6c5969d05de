package report

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

var token = []byte("0123456789abcdef")

// agent is a real gRPC server on a unix socket that keeps frames as the contract
// says and can be told to misbehave.
type agent struct {
	trainv1.UnimplementedTrainServiceServer
	t      *testing.T
	socket string
	server *grpc.Server
	opened *trainv1.Opened

	mu       sync.Mutex
	frames   []*trainv1.TrainRequest // durable, in order
	opens    []*trainv1.Open
	files    map[[32]byte][]byte
	down     chan *trainv1.TrainResponse
	acks     bool // acknowledge at once
	dropAt   int  // end the stream after that many frames of it; 0 never
	refuse   error
	pushFail int
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "ta") // a short path: unix sockets allow 108 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	a := &agent{t: t, socket: filepath.Join(dir, "s"), files: map[[32]byte][]byte{}, acks: true, down: make(chan *trainv1.TrainResponse, 16),
		opened: &trainv1.Opened{JobId: "j", Attempt: 1, Fence: 9, Spec: &jobv1.JobSpec{Runtime: &jobv1.JobSpec_Command{
			Command: &jobv1.CommandSpec{Argv: []string{"true"}}}}, OrphanTimeout: durationpb.New(30 * time.Second)}}
	a.start()
	t.Cleanup(func() { a.stop() })
	return a
}

func (a *agent) start() {
	a.t.Helper()
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		a.t.Fatal(err)
	}
	a.server = grpc.NewServer()
	trainv1.RegisterTrainServiceServer(a.server, a)
	go func() { _ = a.server.Serve(l) }()
}

func (a *agent) stop() { a.server.Stop() }

func (a *agent) acked() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return uint64(len(a.frames))
}

func (a *agent) Train(stream trainv1.TrainService_TrainServer) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := protovalidate.Validate(m); err != nil {
		return rpcerr.Protocol("%v", err)
	}
	a.mu.Lock()
	a.opens = append(a.opens, m.GetOpen())
	refuse := a.refuse
	o := &trainv1.Opened{JobId: a.opened.JobId, Attempt: a.opened.Attempt, Fence: a.opened.Fence, Spec: a.opened.Spec,
		OrphanTimeout: a.opened.OrphanTimeout, AckedSequence: uint64(len(a.frames))}
	a.mu.Unlock()
	if refuse != nil {
		return refuse
	}
	if !bytes.Equal(m.GetOpen().GetToken(), token) {
		return rpcerr.New(codes.Unauthenticated, 0, "wrong token")
	}
	var sendMu sync.Mutex
	send := func(r *trainv1.TrainResponse) error {
		sendMu.Lock()
		defer sendMu.Unlock()
		return stream.Send(r)
	}
	if err := send(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Opened{Opened: o}}); err != nil {
		return err
	}
	go func() {
		for {
			select {
			case r := <-a.down:
				_ = send(r)
			case <-stream.Context().Done():
				return
			}
		}
	}()
	for n := 1; ; n++ {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := protovalidate.Validate(f); err != nil {
			return rpcerr.Protocol("%v", err)
		}
		a.mu.Lock()
		switch have := uint64(len(a.frames)); {
		case f.GetSequence() == have+1:
			a.frames = append(a.frames, f)
		case f.GetSequence() > have+1:
			a.mu.Unlock()
			return rpcerr.Protocol("frame %d after %d", f.GetSequence(), have)
		}
		ack, drop := a.acks, a.dropAt > 0 && n >= a.dropAt
		acked := uint64(len(a.frames))
		a.mu.Unlock()
		if drop {
			return rpcerr.Draining() // the frame is durable, its ack is lost
		}
		if ack {
			if err := send(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Ack{Ack: &trainv1.Ack{Sequence: acked}}}); err != nil {
				return err
			}
		}
	}
}

func (a *agent) PushArtifact(stream trainv1.TrainService_PushArtifactServer) error {
	a.mu.Lock()
	if a.pushFail > 0 {
		a.pushFail--
		a.mu.Unlock()
		return rpcerr.New(codes.ResourceExhausted, 22, "full").WithRetry(time.Millisecond)
	}
	a.mu.Unlock()
	var data []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := protovalidate.Validate(m); err != nil {
			return rpcerr.Protocol("%v", err)
		}
		switch f := m.GetFrame().(type) {
		case *trainv1.PushArtifactRequest_Chunk:
			data = append(data, f.Chunk...)
		case *trainv1.PushArtifactRequest_Footer:
			sum := sha256.Sum256(data)
			a.mu.Lock()
			a.files[sum] = data
			a.mu.Unlock()
			return stream.SendAndClose(&trainv1.PushArtifactResponse{Sha256: sum[:], SizeBytes: int64(len(data))})
		}
	}
}

func open(t *testing.T, a *agent, o Options) *Client {
	t.Helper()
	o.Socket = a.socket
	if o.Token == nil {
		o.Token = token
	}
	c, _, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func metric(i int) []run.Metric {
	return []run.Metric{{Key: "train/reward", Value: float64(i), Step: int64(i), Time: time.Unix(int64(i), 0)}}
}

func finish(t *testing.T, c *Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := c.Finish(ctx, run.Ending{Outcome: run.Succeeded, Message: "done"}); err != nil {
		t.Fatal(err)
	}
}

// values returns what the agent has, and fails on a gap or a repeat.
func values(t *testing.T, a *agent, want int) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.frames) != want+1 || a.frames[want].GetFinished() == nil {
		t.Fatalf("%d frames are durable, want %d metrics and Finished", len(a.frames), want)
	}
	for i, f := range a.frames[:want] {
		if f.GetSequence() != uint64(i+1) || f.GetMetrics().GetPoints()[0].GetValue() != float64(i) {
			t.Fatalf("frame %d has sequence %d and value %v", i, f.GetSequence(), f.GetMetrics())
		}
	}
}

// TestNothingIsLostWhenTheAgentRestarts kills the agent several times while
// metrics flow, once so that only the acknowledgements get lost.
func TestNothingIsLostWhenTheAgentRestarts(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.dropAt = 70
	c := open(t, a, Options{Buffer: 64})
	const n = 600
	for i := range n {
		if i%200 == 150 {
			a.stop()
			time.Sleep(20 * time.Millisecond)
			a.start()
		}
		if err := c.Metrics(t.Context(), metric(i)); err != nil {
			t.Fatal(err)
		}
	}
	finish(t, c)
	values(t, a, n)
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.opens) < 4 {
		t.Errorf("only %d streams", len(a.opens))
	}
	if last := a.opens[len(a.opens)-1]; last.GetLastSequence() == 0 {
		t.Error("a reconnect did not say how far it was")
	}
}

// TestASlowHostSlowsItsTrainer: with acks held back the buffer fills and the
// sender waits; it goes on when they come.
func TestASlowHostSlowsItsTrainer(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.acks = false
	c := open(t, a, Options{Buffer: 5})
	for i := range 5 {
		if err := c.Metrics(t.Context(), metric(i)); err != nil {
			t.Fatal(err)
		}
	}
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.Metrics(short, metric(5)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a sixth frame: %v", err)
	}
	for a.acked() < 5 {
		time.Sleep(time.Millisecond)
	}
	a.down <- &trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Ack{Ack: &trainv1.Ack{Sequence: 5}}}
	a.mu.Lock()
	a.acks = true
	a.mu.Unlock()
	if err := c.Metrics(t.Context(), metric(5)); err != nil {
		t.Fatal(err)
	}
	finish(t, c)
	values(t, a, 6)
}

func TestOrders(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	c := open(t, a, Options{})
	follow := func(r *trainv1.TrainResponse) run.Order {
		t.Helper()
		changed := c.Changed()
		a.down <- r
		<-changed
		return c.Order()
	}
	if o := follow(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_CheckpointNow{CheckpointNow: &trainv1.CheckpointNow{}}}); !o.CheckpointNow {
		t.Errorf("%+v", o)
	}
	if c.Order().CheckpointNow {
		t.Error("the order was not taken")
	}
	if o := follow(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Pause{Pause: &trainv1.Pause{}}}); !o.Paused {
		t.Errorf("%+v", o)
	}
	if o := follow(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Resume{Resume: &trainv1.Resume{}}}); o.Paused {
		t.Errorf("%+v", o)
	}
	stop := &trainv1.Stop{Reason: fleetv1.StopOrder_REASON_PREEMPTED, Grace: durationpb.New(7 * time.Second)}
	if o := follow(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Stop{Stop: stop}}); !o.Stop || o.Reason != "preempted" || o.Grace != 7*time.Second {
		t.Errorf("%+v", o)
	}
	c.Interrupt("signal")
	if o := c.Order(); o.Reason != "preempted" {
		t.Errorf("a signal after the order replaced its reason: %+v", o)
	}
}

func TestAFencedTrainerGivesUp(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	c := open(t, a, Options{})
	a.mu.Lock()
	a.refuse = rpcerr.Fenced("attempt 2 runs elsewhere")
	a.mu.Unlock()
	a.stop()
	a.start()
	<-c.Gone()
	if !errors.Is(c.Err(), ErrFenced) || !errors.Is(c.Metrics(t.Context(), metric(1)), ErrFenced) {
		t.Errorf("%v", c.Err())
	}
	if _, _, err := Open(t.Context(), Options{Socket: a.socket, Token: token}); !errors.Is(err, ErrFenced) {
		t.Errorf("a refused Open: %v", err)
	}
}

func TestAnOrphanGivesUp(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.opened.OrphanTimeout = durationpb.New(200 * time.Millisecond)
	c := open(t, a, Options{})
	a.stop()
	<-c.Gone()
	if !errors.Is(c.Err(), ErrOrphaned) {
		t.Errorf("%v", c.Err())
	}
	if err := c.Finish(t.Context(), run.Ending{Outcome: run.Succeeded}); !errors.Is(err, ErrOrphaned) {
		t.Errorf("Finish without an agent: %v", err)
	}
}

func TestAnAgentThatForgotIsRefused(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	c := open(t, a, Options{})
	for i := range 3 {
		if err := c.Metrics(t.Context(), metric(i)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		c.mu.Lock()
		n := len(c.pending)
		c.mu.Unlock()
		if n == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	a.stop()
	a.frames = nil // it lost what it had acknowledged
	a.start()
	<-c.Gone()
	if !errors.Is(c.Err(), ErrProtocol) {
		t.Errorf("%v", c.Err())
	}
}

func TestCheckpointPushesItsFilesFirst(t *testing.T) {
	t.Parallel()
	a := newAgent(t)
	a.pushFail = 2
	c := open(t, a, Options{})
	content := bytes.Repeat([]byte("weights"), 100_000) // several chunks
	files, err := checkpoint.Write(filepath.Join(t.TempDir(), "c"), []checkpoint.Content{{Name: "model.safetensors", Data: content}, {Name: "empty.bin"}})
	if err != nil {
		t.Fatal(err)
	}
	k := run.Checkpoint{Step: 4, Metrics: map[string]float64{"validation/sharpe": 1.5}, Resumable: true, FeatureSchema: "s/1"}
	if err := c.Checkpoint(t.Context(), k, files); err != nil {
		t.Fatal(err)
	}
	if err := c.Artifact(t.Context(), files[0], "application/octet-stream"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []run.Progress{{Epoch: 1, TotalEpochs: 2, Objective: math.NaN(), Remaining: time.Second}} {
		if err := c.Progress(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(c.OutOfMemory(t.Context(), "cpu:0", "m"), c.DataOutage(t.Context(), true, "away"), c.Params(t.Context(), map[string]string{"a": "b"})); err != nil {
		t.Fatal(err)
	}
	finish(t, c)
	if !bytes.Equal(a.files[sha256.Sum256(content)], content) {
		t.Error("the content did not arrive")
	}
	f := a.frames[0].GetCheckpoint()
	if f.GetStep() != 4 || len(f.GetFiles()) != 2 || !bytes.Equal(f.GetFiles()[0].GetSha256(), files[0].SHA256[:]) || f.GetMetrics()["validation/sharpe"] != 1.5 {
		t.Errorf("%v", f)
	}
	if err := c.push(t.Context(), checkpoint.File{Name: "gone", Path: "/nonexistent"}); err == nil {
		t.Error("a missing file was pushed")
	}
}

func TestAssignment(t *testing.T) {
	t.Parallel()
	o := &trainv1.Opened{JobId: "j", Attempt: 3, BatchSize: 64, LearningRateScale: 0.5, Threads: 2, WorkDir: "/w",
		Devices: []*fleetv1.Device{{DeviceId: "cpu:0"}}, Restore: &trainv1.Restore{CheckpointId: "c", Step: 8, Directory: "/r"},
		Spec: &jobv1.JobSpec{Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{Specialist: jobv1.Specialist_SPECIALIST_BEAR,
			Symbol: "SPX", Timeframe: "1d", Seed: -4, MaxEpochs: 7, Learner: &jobv1.LearnerSpec{HiddenSizes: []uint32{32}, Discount: 0.8}}}}}
	a, err := assignment(o)
	if err != nil {
		t.Fatal(err)
	}
	n := a.Native
	if n.Specialist != market.RegimeBear || n.Reward != reward.Default(reward.RiskAdjusted) || n.Costs.CommissionBP != 1 || n.Learner.HiddenSizes[0] != 32 ||
		a.RestoreDir != "/r" || a.DeviceIDs[0] != "cpu:0" || a.LearningRateScale != 0.5 || n.Seed != -4 {
		t.Errorf("%+v %+v", a, n)
	}
	if n.Split != (market.SplitPlan{}) {
		t.Errorf("a job that says nothing of its split has %+v", n.Split)
	}
	none := 0.0
	o.Spec.GetNative().Split = &jobv1.WalkForward{ValidationFraction: 0.3, TestFraction: 0.1, EmbargoBars: 5, Folds: 3, Fold: 2}
	o.Spec.GetNative().RewardParameters = &jobv1.RewardParameters{DrawdownPenalty: &none}
	if a, err = assignment(o); err != nil {
		t.Fatal(err)
	}
	if n = a.Native; n.Split != (market.SplitPlan{ValidationFraction: 0.3, TestFraction: 0.1, EmbargoBars: 5, Folds: 3, Fold: 2}) ||
		n.Reward.DrawdownPenalty != 0 || n.Reward.TurnoverPenalty != reward.Default(reward.RiskAdjusted).TurnoverPenalty {
		t.Errorf("%+v", n)
	}
	o.Spec.GetNative().Specialist, o.Spec.GetNative().Reward = 77, 78
	if _, err := assignment(o); err == nil || fmt.Sprint(err) == "" {
		t.Errorf("unknown enums: %v", err)
	}
	if _, err := assignment(&trainv1.Opened{Spec: &jobv1.JobSpec{}}); err == nil {
		t.Error("a job without a runtime was taken")
	}
}

// TestEveryClassHasItsWireForm: a class that the contract does not know would
// reach the scheduler as no class at all.
func TestEveryClassHasItsWireForm(t *testing.T) {
	t.Parallel()
	for _, class := range []run.Class{run.ClassDeviceOOM, run.ClassHostOOM, run.ClassCrash, run.ClassDataUnavailable, run.ClassDiverged, run.ClassBadConfiguration} {
		f := finishedFrame(run.Failure(class, "m", "p")).GetFinished()
		if f.GetFailureClass() == jobv1.FailureClass_FAILURE_CLASS_UNSPECIFIED || f.GetOutcome() != fleetv1.Exit_OUTCOME_FAILED {
			t.Errorf("%s: %v", class, f)
		}
	}
}
