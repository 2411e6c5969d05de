package modelclient_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"github.com/ultrathink-pilot/trainyard/libs/modelclient"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// registry is the part of the registry that a client sees, in memory, with a plain HTTP
// server for its object store. The client against the real one is tested beside the registry.
type registry struct {
	registryv1.UnimplementedModelServiceServer
	registryv1.UnimplementedRunServiceServer
	t       *testing.T
	objects *httptest.Server
	// cut, when set, ends a response of the object store after so many bytes.
	cut     atomic.Int64
	away    atomic.Bool
	ranged  atomic.Int64
	served  atomic.Int64
	through atomic.Int64
	// chunk, when set, stores files in chunks of so many bytes.
	chunk atomic.Int64

	mu       sync.Mutex
	versions map[int64]map[string]string
	live     int64
	stored   map[string]string
	watchers map[chan struct{}]bool
}

func newRegistry(t *testing.T) *registry {
	r := &registry{t: t, versions: map[int64]map[string]string{}, stored: map[string]string{}, watchers: map[chan struct{}]bool{}}
	r.objects = httptest.NewServer(http.HandlerFunc(r.object))
	t.Cleanup(r.objects.Close)
	return r
}

func sum(content string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(content))) }

func (r *registry) object(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	content, ok := r.stored[strings.TrimPrefix(q.URL.Path, "/")]
	r.mu.Unlock()
	if !ok || r.away.Load() {
		http.Error(w, "no", http.StatusNotFound)
		return
	}
	r.served.Add(1)
	if q.Header.Get("Range") != "" {
		r.ranged.Add(1)
	}
	if cut := r.cut.Swap(0); cut > 0 {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		_, _ = w.Write([]byte(content[:cut]))
		panic(http.ErrAbortHandler)
	}
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader([]byte(content)))
}

// release adds a version and makes it live.
func (r *registry) release(version int64, files map[string]string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.versions[version] = files
	for _, content := range files {
		for _, piece := range r.pieces(content) {
			if _, ok := r.stored[sum(piece)]; !ok {
				r.stored[sum(piece)] = piece
			}
		}
	}
	r.move(version)
}

// pieces are what a content is stored as.
func (r *registry) pieces(content string) (out []string) {
	for n := int(r.chunk.Load()); n > 0 && len(content) > n; content = content[n:] {
		out = append(out, content[:n])
	}
	return append(out, content)
}

func (r *registry) move(version int64) {
	r.live = version
	for w := range r.watchers {
		select {
		case w <- struct{}{}:
		default:
		}
	}
}

func (r *registry) version(v int64) *registryv1.ModelVersion {
	m := sha256.Sum256([]byte(fmt.Sprint(v, r.versions[v])))
	return &registryv1.ModelVersion{ModelName: "bull", Version: v, Stage: registryv1.Stage_STAGE_PRODUCTION, ManifestSha256: m[:], CheckpointId: fmt.Sprint("c", v)}
}

func (r *registry) ResolveModel(_ context.Context, q *registryv1.ResolveModelRequest) (*registryv1.ResolveModelResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := q.GetVersion()
	if v == 0 {
		v = r.live
	}
	if r.versions[v] == nil {
		return nil, status.Error(codes.NotFound, "no such version")
	}
	out := &registryv1.ResolveModelResponse{Version: r.version(v), Checkpoint: &registryv1.Checkpoint{CheckpointId: fmt.Sprint("c", v)}}
	for path, content := range r.versions[v] {
		s := sha256.Sum256([]byte(content))
		file := &registryv1.CheckpointFile{Path: path, Sha256: s[:], SizeBytes: int64(len(content))}
		out.Checkpoint.Files = append(out.Checkpoint.Files, file)
		for _, piece := range r.pieces(content) {
			s := sha256.Sum256([]byte(piece))
			t := &registryv1.TransferURL{Sha256: s[:], SizeBytes: int64(len(piece)), Method: http.MethodGet, Url: r.objects.URL + "/" + sum(piece)}
			if piece == content {
				t.Paths = []string{path}
			} else {
				file.Chunks = append(file.Chunks, &registryv1.Chunk{Sha256: s[:], SizeBytes: int64(len(piece))})
			}
			out.Downloads = append(out.Downloads, t)
		}
	}
	return out, nil
}

func (r *registry) WatchModel(_ *registryv1.WatchModelRequest, stream grpc.ServerStreamingServer[registryv1.WatchModelResponse]) error {
	wake := make(chan struct{}, 1)
	wake <- struct{}{}
	r.mu.Lock()
	r.watchers[wake] = true
	r.mu.Unlock()
	for {
		select {
		case <-wake:
		case <-stream.Context().Done():
			return nil
		}
		r.mu.Lock()
		frame := &registryv1.WatchModelResponse{}
		if r.live != 0 {
			frame.Version = r.version(r.live)
		}
		r.mu.Unlock()
		if err := stream.Send(frame); err != nil {
			return err
		}
	}
}

func (r *registry) DownloadCheckpointFile(q *registryv1.DownloadCheckpointFileRequest, stream grpc.ServerStreamingServer[registryv1.DownloadCheckpointFileResponse]) error {
	r.through.Add(1)
	r.mu.Lock()
	defer r.mu.Unlock()
	for v, files := range r.versions {
		if content, ok := files[q.GetPath()]; ok && q.GetCheckpointId() == fmt.Sprint("c", v) {
			return stream.Send(&registryv1.DownloadCheckpointFileResponse{Chunk: []byte(content[q.GetOffset():])})
		}
	}
	return status.Error(codes.NotFound, "no such file")
}

// serve starts the registry and returns a connection and its end.
func (r *registry) serve() (*grpc.ClientConn, func()) {
	r.t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	registryv1.RegisterModelServiceServer(server, r)
	registryv1.RegisterRunServiceServer(server, r)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///registry", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		r.t.Fatal(err)
	}
	var once sync.Once
	stop := func() { once.Do(func() { server.Stop(); _ = conn.Close(); <-done }) }
	r.t.Cleanup(stop)
	return conn, stop
}

func open(t *testing.T, conn *grpc.ClientConn, dir string) *modelclient.Client {
	t.Helper()
	c, err := modelclient.Open(modelclient.Config{Conn: conn, Dir: dir, Keep: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// follow follows until the test ends, or until its stop.
func follow(t *testing.T, c *modelclient.Client) (*modelclient.Follower, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := c.Follow(ctx, "bull")
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			<-f.Done()
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	t.Cleanup(stop)
	return f, stop
}

func expect(t *testing.T, f *modelclient.Follower, version int64, path, content string) *modelclient.Model {
	t.Helper()
	for {
		m, err := f.Wait(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if m.Version == version {
			b, err := os.ReadFile(m.Path(path))
			if err != nil || string(b) != content {
				t.Fatalf("version %d, %s: %q, %v", version, path, b, err)
			}
			return m
		}
		select {
		case <-f.Changed():
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
}

func TestFollowsPromotionsAndSharesContent(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	conn, _ := r.serve()
	dir := t.TempDir()
	f, _ := follow(t, open(t, conn, dir))
	r.release(1, map[string]string{"model.safetensors": "one", "trunk/shared.safetensors": "trunk"})
	first := expect(t, f, 1, "trunk/shared.safetensors", "trunk")
	r.release(2, map[string]string{"model.safetensors": "two", "trunk/shared.safetensors": "trunk"})
	expect(t, f, 2, "model.safetensors", "two")
	if n := r.served.Load(); n != 3 {
		t.Errorf("%d downloads for three different contents", n)
	}
	if b, err := os.ReadFile(first.Path("model.safetensors")); err != nil || string(b) != "one" {
		t.Errorf("the version before is one to keep: %q %v", b, err)
	}
	r.release(3, map[string]string{"model.safetensors": "three"})
	expect(t, f, 3, "model.safetensors", "three")
	r.mu.Lock()
	r.move(2)
	r.mu.Unlock()
	expect(t, f, 2, "model.safetensors", "two") // a rollback
	if !f.Live() || !f.Online() {
		t.Error("live and online")
	}
	r.mu.Lock()
	r.move(0)
	r.mu.Unlock()
	for f.Live() {
		<-f.Changed()
	}
	if f.Current().Version != 2 {
		t.Error("with nothing in production the last one goes on")
	}
}

func TestServesFromTheCacheWhenAllElseIsDown(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	conn, down := r.serve()
	dir := t.TempDir()
	f, stop := follow(t, open(t, conn, dir))
	r.release(1, map[string]string{"model.safetensors": "one"})
	expect(t, f, 1, "model.safetensors", "one")
	down()
	r.objects.Close()
	expect(t, f, 1, "model.safetensors", "one")
	stop()

	again, stop := follow(t, open(t, conn, dir))
	m := expect(t, again, 1, "model.safetensors", "one")
	if again.Online() {
		t.Error("nothing is to be heard")
	}
	stop()

	// One bit of the cached file turns: it is not served.
	path := m.Path("model.safetensors")
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, []byte("onf"), 0o644)); err != nil {
		t.Fatal(err)
	}
	c := open(t, conn, dir)
	defer func() { _ = c.Close() }()
	if m := c.Cached("bull"); m != nil {
		t.Errorf("a damaged model was served: %+v", m)
	}
}

func TestBadBytesAreNeverServed(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	conn, _ := r.serve()
	dir := t.TempDir()
	f, _ := follow(t, open(t, conn, dir))
	r.release(1, map[string]string{"model.safetensors": "one"})
	expect(t, f, 1, "model.safetensors", "one")
	// The store has other bytes of the right length; the registry's own stream has the right ones.
	r.mu.Lock()
	r.stored[sum("two")] = "tvo"
	r.mu.Unlock()
	r.release(2, map[string]string{"model.safetensors": "two"})
	expect(t, f, 2, "model.safetensors", "two")
	if r.through.Load() == 0 {
		t.Error("the registry was not asked")
	}
	// The store is out of reach.
	r.away.Store(true)
	r.release(3, map[string]string{"model.safetensors": "three"})
	expect(t, f, 3, "model.safetensors", "three")
}

func TestBrokenDownloadGoesOn(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	conn, _ := r.serve()
	content := strings.Repeat("0123456789", 100_000)
	r.cut.Store(400_000)
	r.release(1, map[string]string{"model.safetensors": content})
	c := open(t, conn, t.TempDir())
	defer func() { _ = c.Close() }()
	m, err := c.Fetch(t.Context(), "bull", modelclient.Selector{})
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(m.Path("model.safetensors")); err != nil || string(b) != content {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	if r.ranged.Load() == 0 || r.through.Load() != 0 {
		t.Errorf("%d ranged requests, %d by the registry", r.ranged.Load(), r.through.Load())
	}
	if _, err := c.Fetch(t.Context(), "bull", modelclient.Selector{Version: 7}); status.Code(err) != codes.NotFound {
		t.Errorf("a version that is not there: %v", err)
	}
}

// A file that is stored as chunks comes from the object store piece by piece, goes on within a piece after a broken connection, and from
// the registry when a piece cannot be had.
func TestChunkedFilesArePutTogether(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.chunk.Store(100_000)
	conn, _ := r.serve()
	var text strings.Builder
	for i := range 30_000 {
		_, _ = fmt.Fprintf(&text, "%09d ", i)
	}
	content := text.String()
	f, _ := follow(t, open(t, conn, t.TempDir()))
	r.cut.Store(40_000)
	r.release(1, map[string]string{"model.safetensors": content})
	expect(t, f, 1, "model.safetensors", content)
	if r.through.Load() != 0 || r.ranged.Load() != 1 {
		t.Errorf("%d files through the registry, %d ranges", r.through.Load(), r.ranged.Load())
	}
	other := "another head" + content[12:]
	r.mu.Lock()
	r.stored[sum(other[:100_000])] = "what was committed" + other[18:100_000]
	r.mu.Unlock()
	r.release(2, map[string]string{"model.safetensors": other})
	expect(t, f, 2, "model.safetensors", other)
	if r.through.Load() != 1 {
		t.Errorf("%d files through the registry", r.through.Load())
	}
}

func TestCacheKeepsToItself(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	conn, _ := r.serve()
	parent := t.TempDir()
	dir := filepath.Join(parent, "cache")
	c := open(t, conn, dir)
	defer func() { _ = c.Close() }()
	for i, path := range []string{"../evil", "/etc/evil", "a/../../evil", `..\evil`, "", ".", "a//b", "a\x00b"} {
		r.release(int64(i+1), map[string]string{path: "evil"})
		if _, err := c.Fetch(t.Context(), "bull", modelclient.Selector{Version: int64(i + 1)}); err == nil {
			t.Errorf("%q was stored", path)
		}
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("beside the cache: %v, %v", entries, err)
	}
	if m := c.Cached("../../" + filepath.Base(parent)); m != nil {
		t.Errorf("a name that is a path: %+v", m)
	}
	if _, err := modelclient.Open(modelclient.Config{Conn: conn, Dir: dir}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a second opening: %v", err)
	}
	if _, err := modelclient.Open(modelclient.Config{}); err == nil {
		t.Error("an empty configuration was taken")
	}
}
