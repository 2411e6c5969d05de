package gpuagent_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	gpuagent "github.com/ultrathink-pilot/trainyard/services/gpu-agent"
)

// TestMain lets the test's own program be the agent and the trainers: real processes,
// no second build. Its supervisors never come here.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("TRAINYARD_SOCKET") != "":
		if err := train(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) > 1 && os.Args[1] == "agent":
		lifecycle.Main(func(ctx context.Context) error {
			var cfg gpuagent.Config
			if err := config.Load("agent", &cfg, os.Args[2:]); err != nil {
				return err
			}
			return gpuagent.Run(ctx, cfg, "test")
		})
	}
	os.Exit(m.Run())
}

const tellDir = "tell"

// child is a trainer that logs one point per step. What it does is in the
// display name of its job: "steps=100 every=5ms crash=3 ...".
type child struct {
	client trainv1.TrainServiceClient
	token  []byte

	mu       sync.Mutex
	sequence uint64
	unacked  []*trainv1.TrainRequest
	send     func(*trainv1.TrainRequest) error
	stop     bool
	opened   *trainv1.Opened
	commits  int
	rejects  int
}

func train() error {
	token, err := io.ReadAll(os.NewFile(3, "token"))
	if err != nil {
		return err
	}
	// Beside this agent's state a test may ask trainers only to say who they are: it
	// then speaks in their place.
	tell := filepath.Join(filepath.Dir(filepath.Dir(os.Getenv("TRAINYARD_SOCKET"))), tellDir)
	if _, err := os.Stat(tell); err == nil {
		if err := os.WriteFile(filepath.Join(tell, hex.EncodeToString(token)), nil, 0o600); err != nil {
			return err
		}
		time.Sleep(time.Hour)
	}
	conn, err := rpcclient.Dial("unix://"+os.Getenv("TRAINYARD_SOCKET"), rpcclient.Options{WriteBuffer: 128 << 10})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	c := &child{client: trainv1.NewTrainServiceClient(conn), token: token}
	ready := make(chan struct{})
	go c.stream(ready)
	<-ready
	return c.run()
}

// stream keeps the Train stream open over restarts of the agent.
func (c *child) stream(ready chan struct{}) {
	var once sync.Once
	for {
		err := c.session(func() { once.Do(func() { close(ready) }) })
		fmt.Println("stream:", err)
		c.mu.Lock()
		c.send = nil
		c.mu.Unlock()
		if strings.Contains(err.Error(), "token") {
			os.Exit(9)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (c *child) session(ready func()) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s, err := c.client.Train(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	last := c.sequence
	c.mu.Unlock()
	if err := s.Send(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Open{Open: &trainv1.Open{Token: c.token, LastSequence: last, Pid: int64(os.Getpid())}}}); err != nil {
		_, err = s.Recv()
		return err
	}
	first, err := s.Recv()
	if err != nil {
		return err
	}
	opened := first.GetOpened()
	if opened == nil {
		return errors.New("no Opened")
	}
	c.mu.Lock()
	c.opened = opened
	c.drop(opened.AckedSequence)
	for _, f := range c.unacked {
		if err := s.Send(f); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.send = s.Send
	c.mu.Unlock()
	ready()
	for {
		r, err := s.Recv()
		if err != nil {
			return err
		}
		c.mu.Lock()
		switch f := r.Frame.(type) {
		case *trainv1.TrainResponse_Ack:
			c.drop(f.Ack.Sequence)
		case *trainv1.TrainResponse_Stop:
			c.stop = true
		case *trainv1.TrainResponse_CheckpointCommitted:
			c.commits++
		case *trainv1.TrainResponse_CheckpointRejected:
			c.rejects++
			fmt.Println("rejected:", f.CheckpointRejected.Problems)
		}
		c.mu.Unlock()
	}
}

func (c *child) drop(acked uint64) {
	for len(c.unacked) > 0 && c.unacked[0].Sequence <= acked {
		c.unacked = c.unacked[1:]
	}
}

func (c *child) frame(f *trainv1.TrainRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sequence++
	f.Sequence = c.sequence
	c.unacked = append(c.unacked, f)
	if c.send != nil {
		_ = c.send(f) // kept, and sent again after a reconnect
	}
}

// lose sends a frame with a gap before it, as a broken trainer would.
func (c *child) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.send != nil {
		_ = c.send(&trainv1.TrainRequest{Sequence: c.sequence + 5, Frame: &trainv1.TrainRequest_Metrics{Metrics: &trainv1.MetricBatch{
			Points: []*trainv1.MetricPoint{{Key: "lost", Step: -1}},
		}}}) // the agent ends the stream for it
	}
}

func (c *child) await(done func() bool) {
	for {
		c.mu.Lock()
		ok := done()
		c.mu.Unlock()
		if ok {
			return
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (c *child) finish(f *trainv1.Finished) {
	c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Finished{Finished: f}})
	c.await(func() bool { return len(c.unacked) == 0 })
}

func (c *child) run() error {
	var steps, crash, grow, push int
	var every time.Duration
	checkpoint, bad, deaf, gap, trunk := false, false, false, false, false
	for _, word := range strings.Fields(c.opened.Spec.DisplayName) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "steps":
			_, _ = fmt.Sscan(value, &steps)
		case "crash":
			_, _ = fmt.Sscan(value, &crash)
		case "grow":
			_, _ = fmt.Sscan(value, &grow)
		case "push":
			_, _ = fmt.Sscan(value, &push)
		case "every":
			every, _ = time.ParseDuration(value)
		case "checkpoint":
			checkpoint = true
		case "poison":
			checkpoint, bad = true, true
		case "trunk":
			trunk = true
		case "deaf":
			deaf = true
		case "gap":
			gap = true
		}
	}
	step := int64(0)
	if r := c.opened.Restore; r != nil {
		raw, err := os.ReadFile(r.Directory + "/model.safetensors")
		if err != nil {
			return err
		}
		if trunk && !bytes.Equal(raw, trunkModel(r.Step)) {
			return errors.New("the restored model is another one")
		}
		step = r.Step
	}
	if grow > 0 {
		c.grow(grow)
	}
	if push > 0 {
		return c.pushMuch(push)
	}
	for step < int64(steps) {
		c.mu.Lock()
		stop := c.stop
		c.mu.Unlock()
		if stop && !deaf {
			c.finish(&trainv1.Finished{Outcome: fleetv1.Exit_OUTCOME_STOPPED, Message: "as told"})
			return nil
		}
		step++
		c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Metrics{Metrics: &trainv1.MetricBatch{
			Points: []*trainv1.MetricPoint{{Key: "train/reward", Value: float64(step), Step: step}},
		}}})
		c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Progress{Progress: &jobv1.Progress{Step: step}}})
		if gap && step == int64(steps)/2 {
			c.lose()
		}
		if crash > 0 && step == int64(crash) {
			c.await(func() bool { return len(c.unacked) == 0 })
			os.Exit(3)
		}
		time.Sleep(every)
	}
	if checkpoint {
		data := weights(bad)
		if trunk {
			data = trunkModel(step)
		}
		if err := c.checkpoint(step, data); err != nil {
			return err
		}
	}
	c.finish(&trainv1.Finished{Outcome: fleetv1.Exit_OUTCOME_SUCCEEDED})
	return nil
}

var hog []byte

// grow takes memory that was not reserved, and says when it crossed the line.
func (c *child) grow(mebibytes int) {
	hog = make([]byte, mebibytes<<20)
	crossed := false
	for i := 0; i < len(hog); i += 4096 {
		hog[i] = 1
		if !crossed && int64(i) > c.opened.ReservedBytes[0]*3/4 {
			// The program has more than this array: a quarter early is before the line.
			crossed = true
			_ = os.WriteFile(crossedFile(os.Getenv("TRAINYARD_SOCKET"), c.opened.Fence), nil, 0o600) // the test misses it
		}
	}
	time.Sleep(time.Hour)
}

// crossedFile appears when a growing trainer goes over its reservation.
func crossedFile(socket string, fence uint64) string {
	return filepath.Join(filepath.Dir(filepath.Dir(socket)), fmt.Sprint("crossed-", fence))
}

// pushMuch pushes files of that size while it goes on to train, and logs the rate
// in MB/s and the share of the time that training waited for the stream.
func (c *child) pushMuch(mebibytes int) error {
	data := make([]byte, mebibytes<<20)
	for round := range int64(8) {
		binary.LittleEndian.PutUint64(data, uint64(round))
		sum := sha256.Sum256(data) // a trainer hashes as it writes
		begun := time.Now()
		done := make(chan error, 1)
		go func() { done <- c.push(data, sum) }()
		var waited time.Duration
		step := int64(0)
		for pushing := true; pushing; step++ {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
				pushing = false
			case <-time.After(10 * time.Millisecond): // a step of training
			}
			asked := time.Now()
			c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Progress{Progress: &jobv1.Progress{Step: step}}})
			waited += time.Since(asked)
		}
		took := time.Since(begun)
		c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Metrics{Metrics: &trainv1.MetricBatch{Points: []*trainv1.MetricPoint{
			{Key: "push/rate", Value: float64(len(data)) / 1e6 / took.Seconds(), Step: round},
			{Key: "push/stall", Value: waited.Seconds() / took.Seconds(), Step: round},
		}}}})
	}
	c.finish(&trainv1.Finished{Outcome: fleetv1.Exit_OUTCOME_SUCCEEDED})
	return nil
}

// weights is a safetensors file of one float, poisoned on wish.
func weights(poisoned bool) []byte {
	header := `{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	out = append(out, header...)
	if poisoned {
		return append(out, 0, 0, 0xc0, 0x7f)
	}
	return append(out, 0, 0, 0x80, 0x3f)
}

// trunkModel is a model whose trunk is always the same, and whose head is the step's.
func trunkModel(step int64) []byte {
	out, err := safetensors.Encode([]safetensors.Tensor{
		safetensors.Float32("policy.weight", []float32{float32(step)}, 1), safetensors.Float32("trunk.weight", make([]float32, 32<<10), 32<<10),
	}, nil)
	if err != nil {
		panic(err)
	}
	return out
}

// checkpoint pushes, over restarts of the agent, and waits for the verdict.
func (c *child) checkpoint(step int64, data []byte) error {
	sum := sha256.Sum256(data)
	for {
		err := c.push(data, sum)
		if err == nil {
			break
		}
		if status.Code(err) != codes.Unavailable {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.frame(&trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Checkpoint{Checkpoint: &trainv1.CheckpointReady{
		Step: step, Resumable: true, Metrics: map[string]float64{"validation/sharpe": 1},
		Files: []*trainv1.StagedFile{{Path: "model.safetensors", Sha256: sum[:], SizeBytes: int64(len(data))}},
	}}})
	c.await(func() bool { return c.commits+c.rejects > 0 })
	return nil
}

func (c *child) push(data []byte, sum [32]byte) error {
	push, err := c.client.PushArtifact(context.Background())
	if err != nil {
		return err
	}
	frames := []*trainv1.PushArtifactRequest{
		{Frame: &trainv1.PushArtifactRequest_Header{Header: &trainv1.ArtifactHeader{Token: c.token, SizeBytes: int64(len(data))}}},
	}
	for chunk := range slices.Chunk(data, 256<<10) {
		frames = append(frames, &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Chunk{Chunk: chunk}})
	}
	frames = append(frames, &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Footer{Footer: &trainv1.ArtifactFooter{Sha256: sum[:]}}})
	for _, f := range frames {
		if err := push.Send(f); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	_, err = push.CloseAndRecv()
	return err
}
