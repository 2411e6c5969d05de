package trainer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/features"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

var (
	token  = []byte("a token of sixteen bytes or more")
	nopLog = zap.NewNop()
)

// agent is the host's side of the Train stream over a real socket.
type agent struct {
	trainv1.UnimplementedTrainServiceServer
	socket string
	opened *trainv1.Opened
	// on is called for every frame, with a function that answers.
	on func(f *trainv1.TrainRequest, answer func(*trainv1.TrainResponse))

	mu     sync.Mutex
	frames []*trainv1.TrainRequest
	files  map[[32]byte][]byte
}

func newAgent(t *testing.T, o *trainv1.Opened) *agent {
	t.Helper()
	dir, err := os.MkdirTemp("", "tr")
	if err != nil {
		t.Fatal(err)
	}
	o.JobId, o.Attempt, o.Fence = "018f0000-0000-7000-8000-000000000001", 1, 7
	o.WorkDir, o.CacheDir, o.Threads = t.TempDir(), t.TempDir(), 1
	a := &agent{socket: filepath.Join(dir, "s"), opened: o, files: map[[32]byte][]byte{}}
	l, err := net.Listen("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	trainv1.RegisterTrainServiceServer(server, a)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() {
		server.Stop()
		_ = os.RemoveAll(dir)
	})
	return a
}

func (a *agent) Train(stream trainv1.TrainService_TrainServer) error {
	if m, err := stream.Recv(); err != nil || !bytes.Equal(m.GetOpen().GetToken(), token) {
		return errors.Join(err, errors.New("no token"))
	}
	var mu sync.Mutex
	send := func(r *trainv1.TrainResponse) {
		mu.Lock()
		defer mu.Unlock()
		_ = stream.Send(r)
	}
	send(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Opened{Opened: a.opened}})
	for {
		f, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		a.mu.Lock()
		a.frames = append(a.frames, f)
		a.mu.Unlock()
		send(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Ack{Ack: &trainv1.Ack{Sequence: f.GetSequence()}}})
		if a.on != nil {
			a.on(f, send)
		}
	}
}

func (a *agent) PushArtifact(stream trainv1.TrainService_PushArtifactServer) error {
	var data []byte
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		data = append(data, m.GetChunk()...)
		if m.GetFooter() != nil {
			sum := sha256.Sum256(data)
			a.mu.Lock()
			a.files[sum] = data
			a.mu.Unlock()
			return stream.SendAndClose(&trainv1.PushArtifactResponse{Sha256: sum[:], SizeBytes: int64(len(data))})
		}
	}
}

// last returns the Finished frame.
func (a *agent) last(t *testing.T) *trainv1.Finished {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.frames) == 0 || a.frames[len(a.frames)-1].GetFinished() == nil {
		t.Fatalf("%d frames, the last is not Finished", len(a.frames))
	}
	return a.frames[len(a.frames)-1].GetFinished()
}

// dataService serves a table as JSON; while away it answers 503.
type dataService struct {
	*httptest.Server
	away atomic.Bool
}

func newDataService(t *testing.T) *dataService {
	t.Helper()
	return serveTable(t, markettest.SyntheticTable(3, 1600))
}

func serveTable(t *testing.T, table *market.Table) *dataService {
	t.Helper()
	table.Symbol = "SPX"
	table.Digest = features.Digest(table)
	wire := map[string]any{"symbol": "SPX", "timeframe": "1d", "schema_version": table.SchemaVersion, "digest": table.Digest,
		"feature_names": table.FeatureNames, "close": table.Close}
	var dates, regimes []string
	var rows [][]float32
	for i, d := range table.Dates {
		dates = append(dates, time.Unix(d, 0).UTC().Format(time.RFC3339))
		regimes = append(regimes, table.Regimes[i].String())
		rows = append(rows, table.Row(i))
	}
	wire["dates"], wire["regimes"], wire["features"] = dates, regimes, rows
	body, err := json.Marshal(wire)
	if err != nil {
		t.Fatal(err)
	}
	s := &dataService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.away.Load() {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if !strings.HasSuffix(r.URL.Path, "/SPX/1d") {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write([]byte(`{"error":"unknown_symbol","message":"unknown symbol","available":{"SPX":["1d"]}}`))
			return
		}
		_, _ = w.Write(body)
	}))
	t.Cleanup(s.Close)
	return s
}

func native(url, symbol string) *trainv1.Opened {
	return &trainv1.Opened{DataServiceUrl: url, BatchSize: 256, Spec: &jobv1.JobSpec{Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{
		Specialist: jobv1.Specialist_SPECIALIST_BULL, Symbol: symbol, Timeframe: "1d", Seed: 1, MaxEpochs: 6,
		Learner: &jobv1.LearnerSpec{Environments: 16, RolloutSteps: 16, HiddenSizes: []uint32{16}}}}}}
}

func TestANativeJobFromOpenToFinished(t *testing.T) {
	t.Parallel()
	a := newAgent(t, native(newDataService(t).URL, "SPX"))
	if err := Run(t.Context(), Config{Socket: a.socket, Token: token}); err != nil {
		t.Fatal(err)
	}
	if f := a.last(t); f.GetOutcome() != fleetv1.Exit_OUTCOME_SUCCEEDED || !strings.Contains(f.GetMessage(), "validation Sharpe") {
		t.Errorf("%v", f)
	}
	kinds := map[string]int{}
	for i, f := range a.frames {
		if f.GetSequence() != uint64(i+1) {
			t.Fatalf("frame %d has sequence %d", i, f.GetSequence())
		}
		switch k := f.GetFrame().(type) {
		case *trainv1.TrainRequest_Checkpoint:
			kinds["checkpoint"]++
			for _, file := range k.Checkpoint.GetFiles() {
				if _, ok := a.files[[32]byte(file.GetSha256())]; !ok {
					t.Errorf("%s was announced before it was pushed", file.GetPath())
				}
			}
		case *trainv1.TrainRequest_Artifact:
			kinds["artifact:"+k.Artifact.GetFile().GetPath()]++
		case *trainv1.TrainRequest_Progress:
			kinds["progress"]++
		case *trainv1.TrainRequest_Params:
			kinds["params"]++
		}
	}
	if kinds["checkpoint"] < 2 || kinds["artifact:evaluation.json"] != 1 || kinds["progress"] != 6 || kinds["params"] != 1 {
		t.Errorf("frames %v", kinds)
	}
}

func TestAStopSavesAndEnds(t *testing.T) {
	t.Parallel()
	a := newAgent(t, native(newDataService(t).URL, "SPX"))
	a.opened.Spec.GetNative().MaxEpochs = 100_000
	a.opened.Spec.GetNative().Patience = 100_000
	var once sync.Once
	a.on = func(f *trainv1.TrainRequest, answer func(*trainv1.TrainResponse)) {
		if f.GetProgress().GetEpoch() == 2 {
			once.Do(func() {
				answer(&trainv1.TrainResponse{Frame: &trainv1.TrainResponse_Stop{Stop: &trainv1.Stop{Reason: fleetv1.StopOrder_REASON_PREEMPTED}}})
			})
		}
	}
	if err := Run(t.Context(), Config{Socket: a.socket, Token: token}); err != nil {
		t.Fatal(err)
	}
	if f := a.last(t); f.GetOutcome() != fleetv1.Exit_OUTCOME_STOPPED || !strings.Contains(f.GetMessage(), "preempted") {
		t.Errorf("%v", f)
	}
	if n := len(a.frames); a.frames[n-2].GetCheckpoint() == nil {
		t.Error("no checkpoint before the end")
	}
}

// TestASignalIsAStop: the process itself gets SIGTERM.
func TestASignalIsAStop(t *testing.T) {
	t.Parallel()
	a := newAgent(t, native(newDataService(t).URL, "SPX"))
	a.opened.Spec.GetNative().MaxEpochs = 100_000
	a.opened.Spec.GetNative().Patience = 100_000
	ctx, cancel := context.WithCancel(t.Context())
	a.on = func(f *trainv1.TrainRequest, _ func(*trainv1.TrainResponse)) {
		if f.GetProgress().GetEpoch() == 2 {
			cancel()
		}
	}
	if err := Run(ctx, Config{Socket: a.socket, Token: token}); err != nil {
		t.Fatal(err)
	}
	if f := a.last(t); f.GetOutcome() != fleetv1.Exit_OUTCOME_STOPPED {
		t.Errorf("%v", f)
	}
}

func TestAnUnknownSymbolSaysWhatThereIs(t *testing.T) {
	t.Parallel()
	a := newAgent(t, native(newDataService(t).URL, "NOPE"))
	if err := Run(t.Context(), Config{Socket: a.socket, Token: token}); err == nil {
		t.Error("no error, the exit code would be 0")
	}
	f := a.last(t)
	if f.GetFailureClass() != jobv1.FailureClass_FAILURE_CLASS_BAD_CONFIGURATION || len(f.GetProblems()) != 1 ||
		!strings.Contains(f.GetProblems()[0], "SPX (1d)") {
		t.Errorf("%v", f)
	}
}

func TestACommandJob(t *testing.T) {
	t.Parallel()
	a := newAgent(t, &trainv1.Opened{Spec: &jobv1.JobSpec{Runtime: &jobv1.JobSpec_Command{Command: &jobv1.CommandSpec{
		Argv: []string{"sh", "-c", `env | grep -c "TRAINYARD_SOCKET\|TRAINYARD_TOKEN" >/dev/null && exit 9; echo '{"step": 3, "loss": 0.25}' >&3`}}}}})
	if err := Run(t.Context(), Config{Socket: a.socket, Token: token}); err != nil {
		t.Fatal(err)
	}
	if p := a.frames[0].GetMetrics().GetPoints(); len(p) != 1 || p[0].GetKey() != "loss" || p[0].GetStep() != 3 {
		t.Errorf("%v", a.frames)
	}
}

// orders is the outage part of a report client.
type orders struct {
	mu      sync.Mutex
	outages []bool
	order   run.Order
	change  chan struct{}
	back    func()
}

func (o *orders) DataOutage(_ context.Context, active bool, _ string) error {
	o.mu.Lock()
	o.outages = append(o.outages, active)
	o.mu.Unlock()
	if o.back != nil {
		o.back()
	}
	return nil
}

func (o *orders) Order() run.Order {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.order
}

func (o *orders) Changed() <-chan struct{} { return o.change }

func newData(t *testing.T, url string, o *orders) *data {
	t.Helper()
	o.change = make(chan struct{})
	source, err := features.New(features.Options{BaseURL: url, CacheDir: t.TempDir(), Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	return &data{source: source, client: o, every: 10 * time.Millisecond, log: nopLog}
}

func TestADataOutageIsReportedAndEnds(t *testing.T) {
	t.Parallel()
	s := newDataService(t)
	s.away.Store(true)
	o := &orders{back: func() { s.away.Store(false) }}
	d := newData(t, s.URL, o)
	snapshot, ending, err := d.table(t.Context(), "SPX", "1d")
	if err != nil || snapshot == nil {
		t.Fatalf("%+v, %v", ending, err)
	}
	if len(o.outages) != 2 || !o.outages[0] || o.outages[1] {
		t.Errorf("outages %v", o.outages)
	}
	if err := snapshot.Close(); err != nil {
		t.Fatal(err)
	}
	// Away again: the cached table is used, and the outage is told.
	s.away.Store(true)
	o.outages = nil
	snapshot, _, err = d.table(t.Context(), "SPX", "1d")
	if err != nil || !snapshot.Stale {
		t.Fatalf("%+v, %v", snapshot, err)
	}
	told := make(chan struct{}, 2)
	o.back = func() { told <- struct{}{} }
	stop := d.watch(t.Context(), snapshot)
	<-told
	stop()
	if len(o.outages) != 1 || !o.outages[0] {
		t.Errorf("outages %v", o.outages)
	}
	if err := snapshot.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAStopWhileWaitingForData(t *testing.T) {
	t.Parallel()
	s := newDataService(t)
	s.away.Store(true)
	o := &orders{order: run.Order{Stop: true, Reason: "data_unavailable"}}
	_, ending, err := newData(t, s.URL, o).table(t.Context(), "SPX", "1d")
	if err != nil || ending.Outcome != run.Stopped {
		t.Errorf("%+v, %v", ending, err)
	}
}

func TestProblemsOfARefusedHistory(t *testing.T) {
	t.Parallel()
	p := problemsOf(&features.RefusedError{Symbol: "A", Timeframe: "1d", Code: "refused", Message: "m", Problems: []string{"line 3: x"}})
	if len(p) != 2 || p[1] != (market.Problem{Field: "history", Description: "line 3: x"}) {
		t.Errorf("%v", p)
	}
}
