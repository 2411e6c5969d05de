//go:build results

package registry

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const resultsPage = "registry.md"

func again(name string) string { return "make bench ONLY=services/registry RESULTS=" + name }

// durableDSN is a database of a Postgres of its own with every durability setting on.
func durableDSN(t *testing.T) string {
	t.Helper()
	bin, err := pgserver.Find(t.Context(), nil)
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	dir, err := os.MkdirTemp("", "trainyard-results-*")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	server, err := pgserver.Start(context.WithoutCancel(t.Context()), pgserver.Options{Dir: filepath.Join(dir, "pg"), Durable: true, Binaries: bin})
	must(t, err)
	t.Cleanup(func() { must(t, server.Stop()) })
	must(t, server.EnsureDatabase(t.Context(), "mesh"))
	must(t, pg.Migrate(t.Context(), server.DSN("mesh"), postgres.Schema, postgres.Migrations))
	return server.DSN("mesh")
}

// batchOf is points in ten series.
func batchOf(first, size int) *registryv1.IngestRequest {
	b := &trainv1.MetricBatch{}
	for i := range size {
		n := first + i
		b.Points = append(b.Points, &trainv1.MetricPoint{Key: fmt.Sprintf("metric/%d", n%10), Value: math.Sin(float64(n) / 100), Step: int64(n / 10),
			Time: timestamppb.New(time.UnixMilli(1_700_000_000_000 + int64(n)))})
	}
	return &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Metrics{Metrics: b}}
}

// flood sends n batches with up to window unanswered and returns how long each answer took.
// every is the pace; 0 sends as fast as it goes.
func (w *writer) flood(n, size, window int, every time.Duration) []time.Duration {
	sent := make([]time.Time, n)
	took := make([]time.Duration, 0, n)
	slots := make(chan struct{}, window)
	go func() {
		began := time.Now()
		for i := range n {
			slots <- struct{}{}
			if every > 0 {
				time.Sleep(time.Until(began.Add(time.Duration(i) * every)))
			}
			r := batchOf(i*size, size)
			r.JobId, r.Attempt, r.Fence, r.Sequence = w.job, w.attempt, w.fence, w.next+uint64(i)+1
			sent[i] = time.Now()
			if err := w.stream.Send(r); err != nil {
				return
			}
		}
	}()
	for i := range n {
		got, err := w.stream.Recv()
		if err != nil || got.GetResult() != registryv1.IngestResponse_RESULT_ACCEPTED {
			w.m.Errorf("answer %v, %v", got, err)
			return took
		}
		took = append(took, time.Since(sent[i]))
		<-slots
	}
	w.next += uint64(n)
	if err := w.stream.CloseSend(); err != nil { // or its place among the connection's streams stays taken
		w.m.Error(err)
	}
	return took
}

func p99(all []time.Duration) time.Duration {
	slices.Sort(all)
	return all[len(all)*99/100]
}

// load runs writers at once and returns the time of all and every answer's.
func (m *mesh) load(writers, n, size, window int, every time.Duration) (time.Duration, []time.Duration) {
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		all  []time.Duration
		list []*writer
	)
	for i := range writers {
		w := m.writer(uuid.NewString(), 1, uint64(i+1))
		w.open("", "")
		list = append(list, w)
	}
	began := time.Now()
	for i, w := range list {
		wg.Go(func() {
			if every > 0 {
				time.Sleep(every * time.Duration(i) / time.Duration(writers)) // trainers do not tick together
			}
			took := w.flood(n, size, window, every)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
		})
	}
	wg.Wait()
	return time.Since(began), all
}

func TestResultsIngest(t *testing.T) {
	m := startWith(t, func(c *Config) { c.DSN = durableDSN(t) })
	rows := map[int]benchtable.Sample{20: {Unit: "rows/s"}, 40: {Unit: "rows/s"}}
	paced := map[int]benchtable.Sample{20: {Unit: "ms"}, 40: {Unit: "ms"}}
	for range 3 {
		for _, writers := range []int{20, 40} {
			const rowsEach, size = 400_000, 1000
			took, _ := m.load(writers, rowsEach/size/writers, size, 8, 0)
			s := rows[writers]
			s.Values = append(s.Values, float64(rowsEach)/took.Seconds())
			rows[writers] = s
		}
		for _, writers := range []int{20, 40} {
			_, all := m.load(writers, 8, 200, 8, time.Second)
			s := paced[writers]
			s.Values = append(s.Values, float64(p99(all))/1e6)
			paced[writers] = s
		}
	}
	ratio := paced[40].Median() / paced[20].Median()
	benchtable.Section{Page: resultsPage, Title: "Ingest", Command: again("TestResultsIngest"),
		Intro: "Streams over mutual TLS into the registry, Postgres with fsync and synchronous_commit on; an answer comes after the commit. Client, registry and Postgres share the machine.",
		Rows: []benchtable.Row{
			{What: "20 streams, batches of 1,000 points", Asked: ">= 100k rows/s", Ours: rows[20]},
			{What: "40 streams, batches of 1,000 points", Asked: ">= 100k rows/s", Ours: rows[40]},
			{What: "p99 of the acknowledgement, 20 writers x 200 points/s", Asked: "<= 50 ms", Ours: paced[20]},
			{What: "p99 of the acknowledgement, 40 writers x 200 points/s", Asked: "<= 2x of 20 writers", Ours: paced[40], Note: fmt.Sprintf("%.2fx", ratio)},
		}}.Write(t)
}

func TestResultsSeriesView(t *testing.T) {
	m := startWith(t, func(c *Config) { c.DSN = durableDSN(t) })
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	const size = 10_000
	total := 0
	write := func(size int) {
		first := total
		total += size
		b := &trainv1.MetricBatch{}
		for i := range size {
			n := first + i
			b.Points = append(b.Points, &trainv1.MetricPoint{Key: "loss", Value: math.Sin(float64(n)/1000) + rand.Float64(), Step: int64(n), Time: timestamppb.New(time.UnixMilli(1_700_000_000_000 + int64(n)))})
		}
		w.accept(&registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Metrics{Metrics: b}})
	}
	for total < 1_000_000 {
		write(size)
	}
	time.Sleep(2 * time.Second) // the last rolls
	_, err := m.runs.GetRun(m.ctx, &registryv1.GetRunRequest{RunId: w.job})
	must(t, err) // a connection is there
	view := func(points int32) time.Duration {
		began := time.Now()
		got, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: w.job, Key: "loss", MaxPoints: points})
		must(t, err)
		if got.GetTotalPoints() != int64(total) || len(got.GetMetrics()) > int(points) {
			t.Fatalf("%d of %d points", len(got.GetMetrics()), got.GetTotalPoints())
		}
		return time.Since(began)
	}
	first := []time.Duration{view(1000)}
	for range 10 {
		write(100)
		first = append(first, view(1000))
	}
	var thin, fat []time.Duration
	for range 30 {
		thin = append(thin, view(1000))
	}
	for range 3 {
		fat = append(fat, view(40_000)) // more than rollups can give: it reads every point
	}
	benchtable.Section{Page: resultsPage, Title: "A series of a million points", Command: again("TestResultsSeriesView"),
		Intro: "GetMetricHistory over gRPC with max_points 1,000; extremes and NaN are kept. The peer is the same call answered from all points.",
		Rows: []benchtable.Row{
			{What: "1,000-point view", Asked: "<= 20 ms", Ours: benchtable.Durations(thin...), Peer: benchtable.Durations(fat...), PeerName: "from the points"},
			{What: "the first view after a write", Asked: "<= 20 ms", Ours: benchtable.Durations(first...)},
		}}.Write(t)
}

// six callers promote different versions at once, a thousand times.
func TestResultsPromotion(t *testing.T) {
	m := start(t)
	const callers, rounds, subscribers = 6, 1000, 1000
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	for v := range callers {
		c := w.checkpoint(int64(v+1), 1, uuid.NewString())
		_, err := m.models.CreateModelVersion(m.ctx, &registryv1.CreateModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull", CheckpointId: c.GetCheckpointId()})
		must(t, err)
	}
	promote := func(v int64) error {
		_, err := m.models.PromoteModelVersion(m.ctx, &registryv1.PromoteModelVersionRequest{RequestId: uuid.NewString(), ModelName: "bull", Version: v, Stage: registryv1.Stage_STAGE_PRODUCTION})
		return err
	}
	exact := 0
	began := time.Now()
	for range rounds {
		var wg sync.WaitGroup
		for v := range callers {
			wg.Go(func() {
				if err := promote(int64(v + 1)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		model, err := m.models.GetModel(m.ctx, &registryv1.GetModelRequest{ModelName: "bull"})
		must(t, err)
		live := 0
		for _, v := range model.GetModel().GetVersions() {
			if v.GetStage() == registryv1.Stage_STAGE_PRODUCTION {
				live++
				if model.GetModel().GetAliases()["production"] != v.GetVersion() {
					t.Error("the alias is out of step")
				}
			}
		}
		if live == 1 {
			exact++
		}
	}
	rate := float64(rounds*callers) / time.Since(began).Seconds()
	verified, err := m.models.VerifyModelHistory(m.ctx, &registryv1.VerifyModelHistoryRequest{ModelName: "bull"})
	must(t, err)

	// A thousand subscribers over ten connections.
	var (
		ready, heard sync.WaitGroup
		mu           sync.Mutex
		lags         []time.Duration
		promotedAt   time.Time
		round        int64
	)
	ctx, cancel := context.WithCancel(m.ctx)
	defer cancel()
	ready.Add(subscribers)
	var conns []registryv1.ModelServiceClient
	for range 10 {
		conns = append(conns, registryv1.NewModelServiceClient(m.as(identity.RoleInference)))
	}
	seen := make([]int64, subscribers)
	for i := range subscribers {
		go func() {
			watch, err := conns[i%len(conns)].WatchModel(ctx, &registryv1.WatchModelRequest{ModelName: "bull"})
			if err != nil {
				t.Error(err)
				return
			}
			first := true
			for {
				frame, err := watch.Recv()
				if err != nil {
					return
				}
				if first {
					first = false
					ready.Done()
					continue
				}
				mu.Lock()
				if frame.GetVersion().GetVersion() == round && seen[i] != round {
					seen[i] = round
					lags = append(lags, time.Since(promotedAt))
					heard.Done()
				}
				mu.Unlock()
			}
		}()
	}
	ready.Wait()
	worst := benchtable.Sample{Unit: "ms"}
	for i := range 20 {
		heard.Add(subscribers)
		mu.Lock()
		next := int64(i%2) + 1
		if i == 0 { // whichever is live, begin with another
			model, err := m.models.ResolveModel(m.ctx, &registryv1.ResolveModelRequest{ModelName: "bull", Selector: &registryv1.ResolveModelRequest_Alias{Alias: "production"}})
			must(t, err)
			if model.GetVersion().GetVersion() == next {
				mu.Unlock()
				must(t, promote(3))
				mu.Lock()
			}
		}
		round, lags = next, nil
		clear(seen)
		promotedAt = time.Now()
		mu.Unlock()
		must(t, promote(next))
		heard.Wait()
		mu.Lock()
		worst.Values = append(worst.Values, float64(p99(lags))/1e6)
		mu.Unlock()
	}
	benchtable.Section{Page: resultsPage, Title: "Promotion", Command: again("TestResultsPromotion"),
		Intro: "Six callers promote six versions of one model at the same moment; after each round the model is read. The history has " +
			fmt.Sprintf("%d events and its hash chain holds: %v.", verified.GetEvents(), verified.GetIntact()),
		Rows: []benchtable.Row{
			{What: "rounds with exactly one Production, and its alias in step", Asked: "1,000 of 1,000", Ours: benchtable.Of("", float64(exact))},
			{What: "promotions", Ours: benchtable.Of("/s", rate)},
			{What: "promotion to WatchModel subscriber, p99 over 1,000 subscribers, 20 promotions", Asked: "<= 200 ms", Ours: worst,
				Note: "from the caller's first byte; client and registry share the machine"},
		}}.Write(t)
}

func cpuSeconds() float64 {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// heapPeak watches the heap while fn runs.
func heapPeak(fn func()) (peak uint64) {
	done := make(chan struct{})
	watched := make(chan uint64)
	go func() {
		var most uint64
		for {
			select {
			case <-done:
				watched <- most
				return
			case <-time.After(20 * time.Millisecond):
				var s runtime.MemStats
				runtime.ReadMemStats(&s)
				most = max(most, s.HeapInuse)
			}
		}
	}()
	fn()
	close(done)
	return <-watched
}

// zeros is n bytes that cost nothing to make.
type zeros struct{ left int64 }

func (z *zeros) Read(b []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := int(min(z.left, int64(len(b))))
	clear(b[:n])
	z.left -= int64(n)
	return n, nil
}

func TestResultsTransfers(t *testing.T) {
	m := start(t)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	const size, partSize = int64(5) << 30, int64(64) << 20
	body := func(n int64) io.Reader { return &zeros{n} }
	digest := digestOfZeros(size)
	f := &registryv1.CheckpointFile{Path: "model.safetensors", Sha256: digest, SizeBytes: size}
	put := func(method, url string, headers map[string]string, n int64) {
		r, err := http.NewRequestWithContext(m.ctx, method, url, body(n))
		must(t, err)
		r.ContentLength = n
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		resp, err := m.http.Do(r)
		must(t, err)
		must(t, errors.Join(resp.Body.Close()))
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("part: %s", resp.Status)
		}
	}
	staged, err := m.agent.BeginCheckpoint(m.ctx, &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: 1, Fence: 1, Step: 1, Files: []*registryv1.CheckpointFile{f}})
	must(t, err)
	ask := &registryv1.PreparePartsRequest{JobId: w.job, Fence: 1, File: f}
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	_, err = io.Copy(sum, body(partSize))
	must(t, err)
	for n := uint32(1); int64(n-1)*partSize < size; n++ {
		ask.Parts = append(ask.Parts, &registryv1.PreparePartsRequest_Part{Number: n, SizeBytes: partSize, Crc32C: sum.Sum32()})
	}
	mib := float64(size) / (1 << 20)
	var sent, raw, rawGet, direct, streamed float64
	timed := func(fn func()) float64 { began := time.Now(); fn(); return mib / time.Since(began).Seconds() }
	peak := heapPeak(func() {
		sent = timed(func() {
			for {
				todo, err := m.agent.PrepareParts(m.ctx, ask)
				must(t, err)
				if todo.GetComplete() {
					return
				}
				for _, p := range todo.GetMissing() {
					put(p.GetMethod(), p.GetUrl(), p.GetHeaders(), partSize)
				}
			}
		})
		_, err := m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 1})
		must(t, err)
	})
	// The same bytes, in the same parts, straight to the store.
	id, err := m.objects.BeginParts(m.ctx, "raw", true)
	must(t, err)
	raw = timed(func() {
		for n := range len(ask.GetParts()) {
			r, err := m.objects.PresignPart(m.ctx, "raw", id, partOf(n+1, partSize, sum.Sum32()), time.Hour)
			must(t, err)
			put(r.Method, r.URL, r.Headers, partSize)
		}
		have, err := m.objects.Parts(m.ctx, "raw", id)
		must(t, err)
		must(t, m.objects.CompleteParts(m.ctx, "raw", id, have))
	})
	fetch := func(url string) {
		r, err := http.NewRequestWithContext(m.ctx, http.MethodGet, url, nil)
		must(t, err)
		resp, err := m.http.Do(r)
		must(t, err)
		n, err := io.Copy(io.Discard, resp.Body)
		must(t, errors.Join(err, resp.Body.Close()))
		if n != size {
			t.Fatalf("%d bytes", n)
		}
	}
	rawGet = timed(func() {
		r, err := m.objects.PresignGet(m.ctx, "raw", time.Hour)
		must(t, err)
		fetch(r.URL)
	})
	direct = timed(func() {
		got, err := m.agent.ResolveCheckpoint(m.ctx, &registryv1.ResolveCheckpointRequest{JobId: w.job, Fence: 1, CheckpointId: staged.GetCheckpointId()})
		must(t, err)
		fetch(got.GetDownloads()[0].GetUrl())
	})
	cpu := cpuSeconds()
	down := heapPeak(func() {
		streamed = timed(func() {
			stream, err := m.runs.DownloadCheckpointFile(m.ctx, &registryv1.DownloadCheckpointFileRequest{CheckpointId: staged.GetCheckpointId(), Path: f.GetPath()})
			must(t, err)
			var n int64
			for {
				chunk, err := stream.Recv()
				if errors.Is(err, io.EOF) {
					break
				}
				must(t, err)
				n += int64(len(chunk.GetChunk()))
			}
			if n != size {
				t.Fatalf("%d bytes", n)
			}
		})
	})
	cpu = cpuSeconds() - cpu
	rate := func(v float64) benchtable.Sample { return benchtable.Of("MiB/s", v) }
	benchtable.Section{Page: resultsPage, Title: "A file of 5 GiB", Command: again("TestResultsTransfers"),
		Intro: "Up in parts of 64 MiB by presigned URLs, down by presigned URL and through the registry. The peer is the same S3 server asked directly with the same requests. Client, registry and S3 server share the machine.",
		Rows: []benchtable.Row{
			{What: "upload in parts", Asked: ">= 80 % of raw S3", Ours: rate(sent), Peer: rate(raw), PeerName: "S3", Note: "with the proof of the whole, one read and SHA-256: S3 keeps none of files in parts"},
			{What: "download by presigned URL", Asked: ">= 80 % of raw S3", Ours: rate(direct), Peer: rate(rawGet), PeerName: "S3"},
			{What: "download through the registry, verified", Ours: rate(streamed), Peer: rate(rawGet), PeerName: "S3",
				Note: fmt.Sprintf("%.1f CPU s for both ends of both TLS connections and the digest", cpu)},
			{What: "heap while going up, client and registry together", Asked: "flat", Ours: benchtable.Of("MiB", float64(peak)/(1<<20))},
			{What: "heap while going down through the registry", Asked: "flat", Ours: benchtable.Of("MiB", float64(down)/(1<<20))},
		}}.Write(t)
}
