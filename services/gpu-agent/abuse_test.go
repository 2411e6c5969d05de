package gpuagent_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
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

// impostor speaks to the agent in place of a trainer whose token it knows.
type impostor struct {
	*bench
	client trainv1.TrainServiceClient
	// mine is a live lease's token, over that of one that has ended.
	mine, over []byte
}

// newImpostor runs an honest trainer on lane 0 and holds two leases beside it.
func newImpostor(t *testing.T, extra ...string) *impostor {
	t.Helper()
	i := &impostor{bench: newBench(t, extra...)}
	i.assign(1, 0, "steps=100000 every=5ms")
	i.until("the trainer", func() bool { steps, _, _ := i.registry.steps(1); return len(steps) > 0 })
	i.client = i.trainers()
	if err := os.Mkdir(filepath.Join(i.state, tellDir), 0o700); err != nil {
		t.Fatal(err)
	}
	ended := i.assign(2, 1, "tell")
	i.over = i.token(nil)
	i.scheduler.with(func() {
		i.scheduler.assign = slices.DeleteFunc(i.scheduler.assign, func(a *fleetv1.Assignment) bool { return a.Fence == 2 })
	})
	i.awaitExit(2)
	// The same job under a newer fence: the older token must not open it.
	again := &fleetv1.Assignment{JobId: ended.JobId, Attempt: 2, Fence: 3, DeviceIds: ended.DeviceIds, ReservedBytes: ended.ReservedBytes, Spec: ended.Spec}
	i.scheduler.with(func() { i.scheduler.assign = append(i.scheduler.assign, again) })
	i.mine = i.token(i.over)
	return i
}

// token waits for one that is not known yet.
func (i *impostor) token(known []byte) []byte {
	i.t.Helper()
	var found []byte
	i.until("a token", func() bool {
		names, err := os.ReadDir(filepath.Join(i.state, tellDir))
		if err != nil {
			i.t.Fatal(err)
		}
		for _, n := range names {
			if raw, err := hex.DecodeString(n.Name()); err == nil && !bytes.Equal(raw, known) {
				found = raw
			}
		}
		return found != nil
	})
	return found
}

func openFrame(token []byte) *trainv1.TrainRequest {
	return &trainv1.TrainRequest{Frame: &trainv1.TrainRequest_Open{Open: &trainv1.Open{Token: token}}}
}

func metricFrame(sequence uint64, key string) *trainv1.TrainRequest {
	return &trainv1.TrainRequest{Sequence: sequence, Frame: &trainv1.TrainRequest_Metrics{Metrics: &trainv1.MetricBatch{
		Points: []*trainv1.MetricPoint{{Key: key}},
	}}}
}

func giantFrame(size int) *trainv1.TrainRequest {
	return &trainv1.TrainRequest{Sequence: 1, Frame: &trainv1.TrainRequest_OutOfMemory{OutOfMemory: &trainv1.OutOfMemory{Message: string(make([]byte, size))}}}
}

func checkpointFrame(path string) *trainv1.TrainRequest {
	return &trainv1.TrainRequest{Sequence: 1, Frame: &trainv1.TrainRequest_Checkpoint{Checkpoint: &trainv1.CheckpointReady{
		Step: 1, Files: []*trainv1.StagedFile{{Path: path, Sha256: make([]byte, 32), SizeBytes: 1}},
	}}}
}

// train sends frames on a new stream and returns the error that ends it.
func (i *impostor) train(frames ...*trainv1.TrainRequest) error {
	i.t.Helper()
	stream, err := i.client.Train(i.t.Context())
	if err != nil {
		i.t.Fatal(err)
	}
	for _, f := range frames {
		if err := stream.Send(f); err != nil {
			break // Recv says why
		}
	}
	for {
		if _, err := stream.Recv(); err != nil {
			return err
		}
	}
}

// push sends an upload's frames and returns the answer's error.
func (i *impostor) push(frames ...*trainv1.PushArtifactRequest) error {
	i.t.Helper()
	push, err := i.client.PushArtifact(i.t.Context())
	if err != nil {
		i.t.Fatal(err)
	}
	for _, f := range frames {
		if err := push.Send(f); err != nil {
			break
		}
	}
	_, err = push.CloseAndRecv()
	return err
}

func headerFrame(token []byte, size int64) *trainv1.PushArtifactRequest {
	return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Header{Header: &trainv1.ArtifactHeader{Token: token, SizeBytes: size}}}
}

func chunkFrame(data []byte) *trainv1.PushArtifactRequest {
	return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Chunk{Chunk: data}}
}

func footerFrame(data []byte) *trainv1.PushArtifactRequest {
	sum := sha256.Sum256(data)
	return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Footer{Footer: &trainv1.ArtifactFooter{Sha256: sum[:]}}}
}

// Whoever lies to the agent is refused with a reason, which is counted, and the
// trainer that runs meanwhile notices nothing.
func TestBadInput(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	i := newImpostor(t, "--staging-size=1MiB", "--admin-listen="+port)
	type refusal struct {
		err    error
		reason errorv1.Reason
	}
	params := map[string]string{} // each field is within its bound
	for n := range 1000 {
		params[fmt.Sprint("p", n)] = strings.Repeat("x", 6000)
	}
	huge := &trainv1.TrainRequest{Sequence: 1, Frame: &trainv1.TrainRequest_Params{Params: &trainv1.ParamBatch{Params: params}}}
	const giant = 20 << 20 // far over what the transport takes
	data := []byte("data")
	const (
		unauthenticated = errorv1.Reason_REASON_UNAUTHENTICATED
		invalid         = errorv1.Reason_REASON_INVALID_FIELDS
		protocol        = errorv1.Reason_REASON_PROTOCOL_VIOLATION
		capExceeded     = errorv1.Reason_REASON_CAP_EXCEEDED
		rejected        = errorv1.Reason_REASON_ARTIFACT_REJECTED
	)
	cases := map[string]refusal{
		"unknown token":              {i.train(openFrame(randomToken(t))), unauthenticated},
		"token of an ended attempt":  {i.train(openFrame(i.over)), unauthenticated},
		"short token":                {i.train(openFrame([]byte("x"))), invalid},
		"no Open":                    {i.train(metricFrame(1, "a")), protocol},
		"empty frame":                {i.train(&trainv1.TrainRequest{}), invalid},
		"Open with a sequence":       {i.train(&trainv1.TrainRequest{Sequence: 4, Frame: openFrame(i.mine).Frame}), protocol},
		"two Opens":                  {i.train(openFrame(i.mine), openFrame(i.mine)), protocol},
		"bad metric key":             {i.train(openFrame(i.mine), metricFrame(1, "\x00")), invalid},
		"gap in the sequence":        {i.train(openFrame(i.mine), metricFrame(2, "a")), protocol},
		"oversized frame":            {i.train(openFrame(i.mine), huge), capExceeded},
		"oversized first frame":      {i.train(huge), capExceeded},
		"oversized field":            {i.train(openFrame(i.mine), giantFrame(1<<20)), invalid},
		"push, unknown token":        {i.push(headerFrame(randomToken(t), 1)), unauthenticated},
		"push, ended attempt":        {i.push(headerFrame(i.over, 1)), unauthenticated},
		"push without a header":      {i.push(footerFrame(nil)), protocol},
		"push, two headers":          {i.push(headerFrame(i.mine, 4), headerFrame(i.mine, 4)), protocol},
		"push without a footer":      {i.push(headerFrame(i.mine, 4), chunkFrame(data)), protocol},
		"push, more than announced":  {i.push(headerFrame(i.mine, 3), chunkFrame(data), footerFrame(data)), rejected},
		"push, less than announced":  {i.push(headerFrame(i.mine, 9), chunkFrame(data), footerFrame(data)), rejected},
		"push, another digest":       {i.push(headerFrame(i.mine, 4), chunkFrame(data), footerFrame([]byte("tada"))), rejected},
		"push, negative size":        {i.push(headerFrame(i.mine, -1)), invalid},
		"push over the host's bound": {i.push(headerFrame(i.mine, 1<<40)), errorv1.Reason_REASON_SPOOL_FULL},
		"push, oversized chunk":      {i.push(headerFrame(i.mine, 2<<20), chunkFrame(make([]byte, 2<<20))), errorv1.Reason_REASON_SPOOL_FULL},
		"push, chunk over 1 MiB":     {i.push(headerFrame(i.mine, 4), chunkFrame(make([]byte, 1<<20+1))), invalid},
		"push, oversized frame":      {i.push(headerFrame(i.mine, 4), chunkFrame(make([]byte, 5<<20))), capExceeded},
		"push, giant frame":          {i.push(headerFrame(i.mine, 4), chunkFrame(make([]byte, giant))), capExceeded},
		"push, giant first frame":    {i.push(chunkFrame(make([]byte, giant))), capExceeded},
		"giant frame":                {i.train(openFrame(i.mine), giantFrame(giant)), capExceeded},
		"giant first frame":          {i.train(giantFrame(giant)), capExceeded},
	}
	for _, path := range []string{"", "../x", "/etc/passwd", "a/../../b", `a\b`, ".hidden", "a//b", "a/", "a\x00b", strings.Repeat("a/", 20) + "b"} {
		cases[fmt.Sprintf("path %q", path)] = refusal{i.train(openFrame(i.mine), checkpointFrame(path)), invalid}
	}
	counted := map[errorv1.Reason]int{}
	for name, c := range cases {
		counted[c.reason]++
		if got := rpcerr.ReasonOf(c.err); got != c.reason {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	for reason, n := range counted {
		name := `reason="` + strings.TrimPrefix(reason.String(), "REASON_") + `"`
		// The transport tells a caller of a frame that is too large before anyone counts it.
		i.until(fmt.Sprintf("%d refusals for %v", n, reason), func() bool { return i.counted(port, `trainyard_train_refused_total{method=`, name) == n })
	}
	i.unharmed()
}

// Files that are not what they say never become a checkpoint: the trainer hears
// why, the refusal is counted, and nothing of them stays.
func TestBadCheckpoints(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	i := newImpostor(t, "--admin-listen="+port)
	stream, err := i.client.Train(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openFrame(i.mine)); err != nil {
		t.Fatal(err)
	}
	files := map[string]struct {
		path    string
		data    []byte
		problem string
	}{
		"poisoned weights":      {"m.safetensors", weights(true), "not finite"},
		"truncated safetensors": {"m.safetensors", weights(false)[:20], "header claims"},
		"code in a .pth":        {"m.pth", torchFile(t, "\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", zip.Store), `"os.system" is not allowed`},
		"truncated .pth":        {"m.pth", torchFile(t, "\x80\x02}.", zip.Store)[:60], "not a sound zip"},
		"zip bomb":              {"m.pt", torchFile(t, strings.Repeat("\x80\x02", 1<<20), zip.Deflate), "not stored plainly"},
		"bad JSON":              {"m.json", []byte("{"), "not valid JSON"},
	}
	sequence := uint64(0)
	for name, f := range files {
		if err := i.push(headerFrame(i.mine, int64(len(f.data))), chunkFrame(f.data), footerFrame(f.data)); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		sum := sha256.Sum256(f.data)
		sequence++
		frame := &trainv1.TrainRequest{Sequence: sequence, Frame: &trainv1.TrainRequest_Checkpoint{Checkpoint: &trainv1.CheckpointReady{
			Step: int64(sequence), Files: []*trainv1.StagedFile{{Path: f.path, Sha256: sum[:], SizeBytes: int64(len(f.data))}},
		}}}
		for range 2 { // a repeat has no second effect
			if err := stream.Send(frame); err != nil {
				t.Fatal(err)
			}
		}
		for answered := false; !answered; {
			r, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			if said := r.GetCheckpointRejected(); said != nil {
				answered = true
				if said.Step != int64(sequence) || !strings.Contains(strings.Join(said.Problems, ""), f.problem) {
					t.Errorf("%s: %v", name, said)
				}
			}
		}
	}
	if got := i.counted(port, "trainyard_checkpoint_rejected_total"); got != len(files) {
		t.Errorf("%d counted", got)
	}
	i.registry.set(func() {
		if len(i.registry.checkpoints)+len(i.registry.staged)+len(i.registry.objects) != 0 {
			t.Error("something of them reached the registry")
		}
	})
	i.unharmed()
}

// A trainer that sends and never reads slows only itself, and goes when it is told to.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	i := newImpostor(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	stream, err := i.client.Train(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(openFrame(i.mine)); err != nil {
		t.Fatal(err)
	}
	flooded := make(chan struct{})
	go func() {
		defer close(flooded)
		for sequence := uint64(1); ; sequence++ {
			if stream.Send(metricFrame(sequence, "flood")) != nil {
				return
			}
		}
	}()
	i.unharmed()
	i.scheduler.with(func() {
		i.scheduler.assign = slices.DeleteFunc(i.scheduler.assign, func(a *fleetv1.Assignment) bool { return a.Fence == 3 })
	})
	if exit := i.awaitExit(3); exit.FailureClass != jobv1.FailureClass_FAILURE_CLASS_AGENT_LOST {
		t.Errorf("exit %v", exit)
	}
	cancel()
	<-flooded
	i.unharmed()
}

// unharmed waits until the honest trainer has gone on.
func (i *impostor) unharmed() {
	i.t.Helper()
	before, _, _ := i.registry.steps(1)
	i.until("more steps of the honest trainer", func() bool { steps, _, _ := i.registry.steps(1); return len(steps) > len(before)+20 })
}

// counted sums the agent's metrics whose line has all the parts.
func (i *impostor) counted(port string, parts ...string) int {
	i.t.Helper()
	resp, err := http.Get("http://" + port + "/metrics")
	if err != nil {
		i.t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		i.t.Fatal(err)
	}
	total := 0.0
	for _, line := range strings.Split(string(raw), "\n") {
		if strings.HasPrefix(line, "#") || slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(line, p) }) {
			continue
		}
		value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
		if err != nil {
			i.t.Fatal(err)
		}
		total += value
	}
	return int(total)
}

// freePort is an address that nobody listens on at this moment.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return address
}

// torchFile is an archive of one pickle.
func torchFile(t *testing.T, pickle string, method uint16) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	f, err := w.CreateHeader(&zip.FileHeader{Name: "m/data.pkl", Method: method})
	if err == nil {
		_, err = f.Write([]byte(pickle))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
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
