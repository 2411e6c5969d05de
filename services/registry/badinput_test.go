package registry

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3server"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

// A batch that breaks the contract ends its stream with the reason and has no effect; the
// run goes on with a good one.
func TestBadBatchesHaveNoEffect(t *testing.T) {
	m := start(t)
	job := uuid.NewString()
	m.writer(job, 1, 1).open("", "")
	metric := func(n int, key string) *registryv1.IngestRequest {
		b := &trainv1.MetricBatch{}
		for range n {
			b.Points = append(b.Points, &trainv1.MetricPoint{Key: key, Value: 1})
		}
		return &registryv1.IngestRequest{Batch: &registryv1.IngestRequest_Metrics{Metrics: b}}
	}
	for name, r := range map[string]*registryv1.IngestRequest{
		"too many points":         metric(10_001, "loss"),
		"no points":               metric(0, ""),
		"an empty key":            metric(1, ""),
		"a key with a line break": metric(1, "a\nb"),
		"a key with a zero":       metric(1, "a\x00b"),
		"a key that is too long":  metric(1, strings.Repeat("k", 251)),
		"SQL as a key":            metric(1, "x'); DROP TABLE runs; --"),
		"more than one message":   {Batch: &registryv1.IngestRequest_Params{Params: &trainv1.ParamBatch{Params: map[string]string{"p": strings.Repeat("x", 5<<20)}}}},
		"nothing":                 {},
	} {
		w := m.writer(job, 1, 1)
		r.JobId, r.Attempt, r.Fence, r.Sequence = job, 1, 1, 2
		if err := w.stream.Send(r); err != nil && !errors.Is(err, io.EOF) && status.Code(err) != codes.ResourceExhausted {
			t.Fatalf("%s: %v", name, err)
		}
		if _, err := w.stream.Recv(); status.Code(err) != codes.InvalidArgument && status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: %v", name, err)
		}
	}
	w := m.writer(job, 1, 1)
	w.next = 1
	w.accept(metric(1, "NaN"))
	w.accept(points("odd", math.MinInt64, math.NaN()))
	w.accept(points("odd", math.MaxInt64, math.Inf(1)))
	for _, key := range []string{"NaN", "odd"} {
		got, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: job, Key: key})
		must(t, err)
		if want := map[string]int{"NaN": 1, "odd": 2}[key]; len(got.GetMetrics()) != want {
			t.Errorf("%s has %v", key, got.GetMetrics())
		}
	}
	_, err := m.runs.GetMetricHistory(m.ctx, &registryv1.GetMetricHistoryRequest{RunId: job, Key: "odd", MaxPoints: -1})
	m.reason(err, errorv1.Reason_REASON_INVALID_FIELDS)
}

// The object store dies in the middle of an upload and comes back: metrics never notice, the
// caller is told to try again, and the upload goes on from the parts that had arrived.
func TestObjectStoreGoneInMidUpload(t *testing.T) {
	bin, err := s3server.Find()
	if err != nil {
		t.Skipf("SKIPPED, NOT TESTED: this test kills its own S3 server. %v", err)
	}
	options := s3server.Options{Binary: bin, Dir: filepath.Join(t.TempDir(), "s3")}
	server, err := s3server.Start(context.WithoutCancel(t.Context()), options)
	must(t, err)
	t.Cleanup(func() { must(t, server.Stop()) })
	s3 := server.Config("midway")
	m := startWith(t, func(c *Config) {
		c.S3 = S3{Endpoint: s3.Endpoint, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, Bucket: s3.Bucket, CA: s3.CA, Insecure: s3.Insecure}
	})
	m.http = &http.Client{Transport: &http.Transport{TLSClientConfig: trust(t, s3.CA)}}
	m.objects, err = objectstore.Open(s3)
	must(t, err)
	w := m.writer(uuid.NewString(), 1, 1)
	w.open("", "")
	const partSize = 5 << 20
	content := strings.Repeat("x", partSize+100)
	f := file("model.safetensors", content)
	staged, err := m.agent.BeginCheckpoint(m.ctx, &registryv1.BeginCheckpointRequest{RequestId: uuid.NewString(), JobId: w.job, Attempt: 1, Fence: 1, Step: 1, Files: []*registryv1.CheckpointFile{f}})
	must(t, err)
	table := crc32.MakeTable(crc32.Castagnoli)
	ask := &registryv1.PreparePartsRequest{JobId: w.job, Fence: 1, File: f, Parts: []*registryv1.PreparePartsRequest_Part{
		{Number: 1, SizeBytes: partSize, Crc32C: crc32.Checksum([]byte(content[:partSize]), table)},
		{Number: 2, SizeBytes: 100, Crc32C: crc32.Checksum([]byte(content[partSize:]), table)}}}
	todo, err := m.agent.PrepareParts(m.ctx, ask)
	must(t, err)
	send := func(p *registryv1.PreparePartsResponse_PartURL, body string) {
		t.Helper()
		if status := m.put(&registryv1.TransferURL{Method: p.GetMethod(), Url: p.GetUrl(), Headers: p.GetHeaders()}, body); status != http.StatusOK {
			t.Fatalf("part %d: status %d", p.GetNumber(), status)
		}
	}
	send(todo.GetMissing()[0], content[:partSize])

	must(t, syscall.Kill(server.PID(), syscall.SIGKILL))
	<-server.Done()
	w.accept(points("loss", 0, 1, 2, 3))
	if _, err := m.agent.PrepareParts(m.ctx, ask); status.Code(err) != codes.Unavailable {
		t.Errorf("without a store: %v", err)
	}
	_ = server.Stop() // it is dead; this only frees what it held
	options.Listen = server.Endpoint
	server, err = s3server.Start(context.WithoutCancel(t.Context()), options)
	must(t, err)

	todo, err = m.agent.PrepareParts(m.ctx, ask)
	must(t, err)
	if len(todo.GetMissing()) != 1 || todo.GetMissing()[0].GetNumber() != 2 {
		t.Fatalf("after the restart: %v", todo.GetMissing())
	}
	send(todo.GetMissing()[0], content[partSize:])
	todo, err = m.agent.PrepareParts(m.ctx, ask)
	must(t, err)
	if !todo.GetComplete() {
		t.Fatalf("not complete: %v", todo)
	}
	_, err = m.agent.CommitCheckpoint(m.ctx, &registryv1.CommitCheckpointRequest{CheckpointId: staged.GetCheckpointId(), Fence: 1})
	must(t, err)
}
