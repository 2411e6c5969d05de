//go:build e2e && results

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	fleetv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/fleet/v1"
	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// hasty archives and deletes as fast as it may, so that minutes hold what a year would.
const hasty = `version: 1
revision: hasty-1
development: true
grace: 0s
rules:
  - experiments: ["*"]
    keep_top: 8
    keep_last_per_live_job: 1
    young_for: 0s
    drop_outranked_after: 10s
    archive_after: 30s
    delete_abandoned_after: 60s
    drop_files: ["trainer_state.bin"]
caps:
  max_drop_fraction: 100%
`

// race is a mesh with people, agents and a janitor that are all in a hurry.
type race struct {
	*yard
	agent  registryv1.IngestServiceClient
	http   *http.Client
	models []string

	mu       sync.Mutex
	contents map[string][]byte // by hex digest
	counts   map[string]*atomic.Int64
	lost     atomic.Int64
}

func (r *race) count(what string) { r.counts[what].Add(1) }

// TestCampaignLiveRace promotes, rolls back, pins, resolves and commits against the real registry, Postgres and S3 server
// while sweeps archive and delete without pause and the janitor is killed every few seconds. TRAINYARD_RACE_MINUTES sets how long.
func TestCampaignLiveRace(t *testing.T) {
	minutes := 15.0
	if v, err := strconv.ParseFloat(os.Getenv("TRAINYARD_RACE_MINUTES"), 64); err == nil {
		minutes = v
	}
	policy := filepath.Join(t.TempDir(), "hasty.yaml")
	if err := os.WriteFile(policy, []byte(hasty), 0o644); err != nil {
		t.Fatal(err)
	}
	y := start(t, "--policy="+policy)
	r := &race{yard: y, models: []string{"bull", "bear"}, contents: map[string][]byte{}, counts: map[string]*atomic.Int64{}}
	for _, what := range []string{"commits", "promotions", "rollbacks", "pins", "resolves", "sweeps", "kills", "archived", "deleted", "restored"} {
		r.counts[what] = &atomic.Int64{}
	}
	r.connect(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(minutes*float64(time.Minute)))
	defer cancel()
	var wg sync.WaitGroup
	for i, model := range r.models {
		wg.Go(func() { r.train(ctx, t, model, uint64(i)) })
		wg.Go(func() { r.people(ctx, t, model, uint64(i)) })
	}
	wg.Go(func() { r.sweep(ctx) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(7 * time.Second):
			y.kill(t, "janitor")
			r.count("kills")
		}
	}
	wg.Wait()
	// Quiet again: one last sweep, then everything that is referenced must be readable and nothing left over.
	r.settle(t)
	rows := []benchtable.Row{{What: "minutes", Asked: "15", Ours: benchtable.Of("", minutes)}}
	for _, what := range []string{"commits", "promotions", "rollbacks", "pins", "resolves", "sweeps", "archived", "restored", "deleted", "kills"} {
		rows = append(rows, benchtable.Row{What: what, Ours: benchtable.Of("", float64(r.counts[what].Load()))})
	}
	rows = append(rows, benchtable.Row{What: "referenced checkpoints lost", Asked: "0", Ours: benchtable.Of("", float64(r.lost.Load()))})
	benchtable.Section{
		Page: "janitor.md", Title: "Live race", Command: "make build && go test -tags=e2e,results,arrow_json_stdlib -run TestCampaignLiveRace -timeout 30m ./tools/e2e/",
		Intro: "The real programs: registry, janitor, Postgres, S3 server. Every Production version is resolved and downloaded all the time, each byte compared by digest; " +
			"the janitor is killed by SIGKILL every few seconds. Models are stored in chunks, and eight runs at a time share a trunk.",
		Rows: rows,
	}.Write(t)
	if n := r.lost.Load(); n > 0 {
		t.Fatalf("%d referenced checkpoints were lost", n)
	}
}

func (r *race) connect(t *testing.T) {
	t.Helper()
	authority, err := identity.NewAuthority(filepath.Join(r.state, "certs"))
	if err != nil {
		t.Fatal(err)
	}
	files, err := authority.Issue(identity.RoleAgent, "race")
	if err != nil {
		t.Fatal(err)
	}
	config, err := identity.ClientTLS(files, identity.RoleRegistry)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := rpcclient.Dial(r.desc.Registry, rpcclient.Options{TLS: config})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r.agent = registryv1.NewIngestServiceClient(conn)
	pool := x509.NewCertPool()
	found := false
	for _, pattern := range []string{"s3/*.pem", "s3/*/*.pem", "*/ca.pem", "s3*/*.crt", "certs/*.pem"} {
		names, err := filepath.Glob(filepath.Join(r.state, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if raw, err := os.ReadFile(name); err == nil {
				found = pool.AppendCertsFromPEM(raw) || found
			}
		}
	}
	if !found {
		t.Fatal("the S3 server's authority is not in the state directory")
	}
	r.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
}

func (r *race) transfer(ctx context.Context, u *registryv1.TransferURL, body []byte) ([]byte, error) {
	q, err := http.NewRequestWithContext(ctx, u.GetMethod(), u.GetUrl(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range u.GetHeaders() {
		q.Header.Set(k, v)
	}
	resp, err := r.http.Do(q)
	if err != nil {
		return nil, err
	}
	got, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, got)
	}
	return got, err
}

// train is an agent: one run after the other, each with a few checkpoints, some of which share their weights.
func (r *race) train(ctx context.Context, t *testing.T, model string, seed uint64) {
	g := rand.New(rand.NewPCG(seed, 1))
	for n := 0; ctx.Err() == nil; n++ {
		if err := r.oneRun(ctx, model, n, g); err != nil && ctx.Err() == nil {
			t.Errorf("train %s: %v", model, err)
			return
		}
	}
}

func (r *race) oneRun(ctx context.Context, model string, n int, g *rand.Rand) error {
	job := uuid.NewString()
	stream, err := r.agent.Ingest(ctx)
	if err != nil {
		return err
	}
	sequence := uint64(0)
	send := func(m *registryv1.IngestRequest) error {
		sequence++
		m.JobId, m.Attempt, m.Fence, m.Sequence = job, 1, 1, sequence
		if err := stream.Send(m); err != nil {
			return err
		}
		_, err := stream.Recv()
		return err
	}
	spec := &jobv1.JobSpec{DisplayName: model, Experiment: fmt.Sprintf("race/%s/%d", model, n/8), ModelName: model,
		Runtime: &jobv1.JobSpec_Native{Native: &jobv1.NativeSpec{Specialist: jobv1.Specialist_SPECIALIST_BULL, Symbol: "SPX", Timeframe: "1d"}}}
	if err := send(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Opened{Opened: &registryv1.RunOpened{Spec: spec, AgentName: "race", Time: timestamppb.Now()}}}); err != nil {
		return err
	}
	// A trunk that four runs of both models share and leave alone, until the last step; a head of the run's own.
	trunk, head := noise(rand.New(rand.NewPCG(uint64(n/4), 3)), 12_000), noise(g, 8_000)
	for step := range 4 {
		for range 200 {
			head[g.IntN(len(head))]++
		}
		if step == 3 {
			trunk[g.IntN(len(trunk))]++
		}
		if err := r.commit(ctx, job, int64(step), g.NormFloat64(), map[string][][]byte{"model.safetensors": {trunk, head}, "trainer_state.bin": {fmt.Appendf(nil, "%s %d", job, step)}}); err != nil {
			return err
		}
	}
	if err := send(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Closed{Closed: &registryv1.RunClosed{Outcome: fleetv1.Exit_OUTCOME_SUCCEEDED, Time: timestamppb.Now()}}}); err != nil {
		return err
	}
	return stream.CloseSend()
}

func noise(g *rand.Rand, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		out[i] = byte(g.NormFloat64() * 20)
	}
	return out
}

// commit stores files as their chunks; one chunk is the file.
func (r *race) commit(ctx context.Context, job string, step int64, sharpe float64, files map[string][][]byte) error {
	begin := &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: job, Attempt: 1, Fence: 1, Step: step}
	mine := map[string][]byte{}
	for path, chunks := range files {
		whole := sha256.New()
		file := &registryv1.CheckpointFile{Path: path}
		for _, b := range chunks {
			sum := sha256.Sum256(b)
			mine[hex.EncodeToString(sum[:])] = bytes.Clone(b)
			file.Chunks = append(file.Chunks, &registryv1.Chunk{Sha256: sum[:], SizeBytes: int64(len(b))})
			file.SizeBytes += int64(len(b))
			_, _ = whole.Write(b) // a hash never fails
		}
		file.Sha256 = whole.Sum(nil)
		begin.Files = append(begin.Files, file)
	}
	r.mu.Lock()
	maps.Copy(r.contents, mine)
	r.mu.Unlock()
	staged, err := r.agent.BeginCheckpoint(ctx, begin)
	if err != nil {
		return err
	}
	for _, u := range staged.GetUploads() {
		if _, err := r.transfer(ctx, u, mine[hex.EncodeToString(u.GetSha256())]); err != nil {
			return err
		}
	}
	_, err = r.agent.CommitCheckpoint(ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 1,
		Metrics: map[string]float64{"validation/sharpe": sharpe}, Resumable: true, FeatureSchema: "v1"})
	r.count("commits")
	return err
}

// people promote, roll back, pin, register what may be archived, and look at Production all the time.
func (r *race) people(ctx context.Context, t *testing.T, model string, seed uint64) {
	g := rand.New(rand.NewPCG(seed, 2))
	for ctx.Err() == nil {
		switch g.IntN(6) {
		case 0:
			if _, err := r.Models.PromoteModelVersion(ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: model,
				Stage: registryv1.Stage_STAGE_PRODUCTION, Reason: "race"}); err == nil {
				r.count("promotions")
			}
		case 1:
			if _, err := r.Models.RollbackModel(ctx, &registryv1.RollbackModelRequest{RequestId: uuid.NewString(), ModelName: model, Reason: "race"}); err == nil {
				r.count("rollbacks")
			}
		case 2:
			r.takeUp(ctx, model, g)
		default:
		}
		if err := r.readProduction(ctx, model); err != nil && ctx.Err() == nil {
			t.Errorf("LOST: %v", err)
			r.lost.Add(1)
			return
		}
	}
}

// takeUp registers and promotes any checkpoint there is, tombstoned, archived or live: the registry refuses or brings it back.
func (r *race) takeUp(ctx context.Context, model string, g *rand.Rand) {
	q := &registryv1.ListCheckpointsRequest{PageSize: 200}
	listed, err := r.Runs.ListCheckpoints(ctx, q)
	for range g.IntN(20) { // older pages have what is in the cold tier
		if q.PageToken = listed.GetNextPageToken(); err != nil || q.GetPageToken() == "" {
			break
		}
		listed, err = r.Runs.ListCheckpoints(ctx, q)
	}
	if err != nil || len(listed.GetCheckpoints()) == 0 {
		return
	}
	c := listed.GetCheckpoints()[g.IntN(len(listed.GetCheckpoints()))]
	if g.IntN(3) == 0 {
		if _, err := r.Runs.SetCheckpointPin(ctx, &registryv1.SetCheckpointPinRequest{RequestId: uuid.NewString(), CheckpointId: c.GetCheckpointId(), Pinned: g.IntN(2) == 0, Reason: "race"}); err == nil {
			r.count("pins")
		}
		return
	}
	made, err := r.Models.CreateModelVersion(ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: model, CheckpointId: c.GetCheckpointId()})
	if err != nil {
		return
	}
	if c.GetStorageTier() == registryv1.StorageTier_STORAGE_TIER_COLD {
		r.count("restored")
	}
	if _, err := r.Models.PromoteModelVersion(ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: model,
		Version: made.GetVersion().GetVersion(), Stage: registryv1.Stage_STAGE_PRODUCTION, Reason: "race"}); err == nil {
		r.count("promotions")
	}
}

// readProduction downloads what is in Production and compares every byte. A version that a promotion replaced meanwhile is
// still a rollback target, so even then nothing may be missing.
func (r *race) readProduction(ctx context.Context, model string) error {
	answer, err := r.Models.ResolveModel(ctx, &registryv1.ResolveModelRequest{ModelName: model, Selector: &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION}})
	if err != nil {
		return nil //nolint:nilerr // nothing is in Production yet, or the registry says why not
	}
	stored := map[string][]byte{}
	for _, u := range answer.GetDownloads() {
		got, err := r.transfer(ctx, u, nil)
		if err != nil {
			return fmt.Errorf("%s version %d, %x: %w", model, answer.GetVersion().GetVersion(), u.GetSha256(), err)
		}
		stored[string(u.GetSha256())] = got
		r.mu.Lock()
		want := r.contents[hex.EncodeToString(u.GetSha256())]
		r.mu.Unlock()
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%s version %d, %x: %d other bytes", model, answer.GetVersion().GetVersion(), u.GetSha256(), len(got))
		}
	}
	for _, f := range answer.GetCheckpoint().GetFiles() {
		whole := stored[string(f.GetSha256())]
		for _, c := range f.GetChunks() {
			whole = append(whole, stored[string(c.GetSha256())]...)
		}
		if sum := sha256.Sum256(whole); !bytes.Equal(sum[:], f.GetSha256()) {
			return fmt.Errorf("%s version %d, %s: its chunks are another file", model, answer.GetVersion().GetVersion(), f.GetPath())
		}
	}
	r.count("resolves")
	return nil
}

func (r *race) sweep(ctx context.Context) {
	for ctx.Err() == nil {
		_, err := r.Janitor.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString(), ConfirmLarge: true})
		if err != nil {
			select { // the janitor is dead just now
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
			continue
		}
		r.count("sweeps")
	}
}

// tally counts what the sweeps have done to the catalogue, those included that a kill cut short and a restart finished.
func (r *race) tally(ctx context.Context, t *testing.T) {
	t.Helper()
	q := &registryv1.ListCheckpointsRequest{PageSize: 1000, States: []registryv1.Checkpoint_State{registryv1.Checkpoint_STATE_LIVE,
		registryv1.Checkpoint_STATE_TOMBSTONED, registryv1.Checkpoint_STATE_DELETING, registryv1.Checkpoint_STATE_DELETED}}
	for {
		page, err := r.Runs.ListCheckpoints(ctx, q)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.GetCheckpoints() {
			switch {
			case c.GetState() == registryv1.Checkpoint_STATE_DELETED:
				r.count("deleted")
			case c.GetStorageTier() == registryv1.StorageTier_STORAGE_TIER_COLD:
				r.count("archived")
			}
		}
		if q.PageToken = page.GetNextPageToken(); q.GetPageToken() == "" {
			return
		}
	}
}

// settle sweeps until it is quiet and then looks at everything that has bytes.
func (r *race) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 15*time.Minute)
	defer cancel()
	for {
		_, err := r.Janitor.ExecuteSweep(ctx, &janitorv1.ExecuteSweepRequest{RequestId: uuid.NewString(), ConfirmLarge: true})
		if err == nil {
			break
		}
		select { // the janitor is starting, or busy with what the race left it
		case <-ctx.Done():
			t.Fatalf("a last sweep: %v", err)
		case <-time.After(time.Second):
		}
	}
	r.tally(ctx, t)
	found, err := r.Janitor.ListFindings(ctx, &janitorv1.ListFindingsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found.GetFindings() {
		t.Errorf("after the race: %v", f)
		if f.GetKind() == janitorv1.Finding_KIND_MISSING || f.GetKind() == janitorv1.Finding_KIND_CORRUPT {
			r.lost.Add(1)
		}
	}
	drill, err := r.Janitor.RunDrill(ctx, &janitorv1.RunDrillRequest{RequestId: uuid.NewString(), SampleSize: 200})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range drill.GetFailures() {
		t.Error(f)
		r.lost.Add(1)
	}
	for _, model := range r.models {
		if err := r.readProduction(ctx, model); err != nil {
			t.Error(err)
			r.lost.Add(1)
		}
	}
}
