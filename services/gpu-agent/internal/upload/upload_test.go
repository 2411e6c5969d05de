package upload_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload"
)

var key = lease.Key{JobID: "job", Attempt: 1, Fence: 3}

// registry is a store that takes files whole or in parts, and fails on demand.
type registry struct {
	mu      sync.Mutex
	objects map[[32]byte][]byte
	parts   map[uint32][]byte
	calls   []string
	// fail is asked before every call.
	fail    func(call string) error
	noParts bool
	// wholeOnly is a registry that does not know chunks.
	wholeOnly bool
	chunks    map[string][]lease.Chunk
}

func (r *registry) call(format string, args ...any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := fmt.Sprintf(format, args...)
	if r.fail != nil {
		if err := r.fail(name); err != nil {
			return err
		}
	}
	r.calls = append(r.calls, name)
	return nil
}

func (r *registry) BeginCheckpoint(_ context.Context, _ lease.Key, step int64, files []lease.File, chunks map[string][]lease.Chunk) (string, []lease.Transfer, error) {
	if err := r.call("begin %d", step); err != nil {
		return "", nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []lease.Transfer
	lacks := func(digest [32]byte, size int64) {
		if _, ok := r.objects[digest]; !ok && !slices.ContainsFunc(out, func(t lease.Transfer) bool { return t.SHA256 == digest }) {
			out = append(out, lease.Transfer{SHA256: digest, Size: size})
		}
	}
	for _, f := range files {
		for _, c := range chunks[f.Path] {
			lacks(c.SHA256, c.Size)
		}
		if len(chunks[f.Path]) == 0 || r.wholeOnly {
			lacks(f.SHA256, f.Size)
		}
	}
	r.chunks = chunks
	return fmt.Sprint("id-", step), out, nil
}

func (r *registry) CommitCheckpoint(_ context.Context, _ lease.Key, id string, _ []byte, parent string) error {
	return r.call("commit %s after %q", id, parent)
}

func (r *registry) BeginArtifact(_ context.Context, _ lease.Key, f lease.File) (*lease.Transfer, error) {
	return &lease.Transfer{SHA256: f.SHA256, Size: f.Size}, r.call("begin %s", f.Path)
}

func (r *registry) CommitArtifact(_ context.Context, _ lease.Key, f lease.File, contentType string) error {
	return r.call("commit %s %s", f.Path, contentType)
}

func (r *registry) PrepareParts(_ context.Context, _ lease.Key, f lease.File, parts []lease.Part) (map[uint32]lease.Transfer, bool, error) {
	if r.noParts {
		return nil, false, lease.ErrNoParts
	}
	if err := r.call("prepare"); err != nil {
		return nil, false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	missing := map[uint32]lease.Transfer{}
	var whole []byte
	for _, p := range parts {
		got := r.parts[p.Number]
		if got == nil {
			missing[p.Number] = lease.Transfer{URL: fmt.Sprint(p.Number)}
			continue
		}
		if crc32.Checksum(got, crc32.MakeTable(crc32.Castagnoli)) != p.CRC32C || int64(len(got)) != p.Size {
			return nil, false, errors.New("a part is not what it should be")
		}
		whole = append(whole, got...)
	}
	if len(missing) == 0 {
		r.objects[f.SHA256] = whole
	}
	return missing, len(missing) == 0, nil
}

func (r *registry) Put(_ context.Context, t lease.Transfer, body io.Reader) error {
	if err := r.call("put %s", t.URL); err != nil {
		return err
	}
	raw, err := io.ReadAll(body)
	if err != nil || int64(len(raw)) != t.Size {
		return fmt.Errorf("%d of %d bytes: %w", len(raw), t.Size, err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var number uint32
	if _, err := fmt.Sscan(t.URL, &number); err == nil {
		r.parts[number] = raw
		return nil
	}
	r.objects[t.SHA256] = raw
	return nil
}

type bench struct {
	*registry
	t     *testing.T
	dir   string
	store *staging.Store
	pipe  *upload.Pipeline

	share   int64
	results []upload.Result
	kept    []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t, dir: t.TempDir(), registry: &registry{objects: map[[32]byte][]byte{}, parts: map[uint32][]byte{}}}
	b.open()
	return b
}

// open is also a restart: everything is found again on the disk.
func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = staging.Open(filepath.Join(b.dir, "staging"), 1<<30, nil); err != nil {
		b.t.Fatal(err)
	}
	store := b.store
	b.t.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.t.Error(err)
		}
	})
	b.pipe, err = upload.Open(upload.Options{
		Key: key, Dir: filepath.Join(b.dir, "uploads"), Staging: b.store, Registry: b.registry, Log: zap.NewNop(),
		ShareTensorsFrom: b.share,
		Report:           func(r upload.Result) { b.results = append(b.results, r) },
		Keep: func(id string, _ upload.Item, path func([32]byte) string) error {
			b.kept = append(b.kept, id)
			return nil
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) push(name string, data []byte) lease.File {
	b.t.Helper()
	sum := sha256.Sum256(data)
	up, err := b.store.Begin(int64(len(data)))
	if err == nil {
		_, err = up.Write(data)
	}
	if err == nil {
		err = up.Commit(sum)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return lease.File{Path: name, SHA256: sum, Size: int64(len(data))}
}

func (b *bench) submit(item upload.Item) {
	b.t.Helper()
	if err := b.pipe.Submit(item); err != nil {
		b.t.Fatal(err)
	}
}

// run works until nothing is left, in the bubble's time.
func (b *bench) run() {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.pipe.Run(ctx) }()
	if err := b.pipe.WaitIdle(ctx); err != nil {
		b.t.Error(err)
	}
	cancel()
	<-done
}

// A checkpoint and an artifact go the whole way, in the order they were handed over,
// and leave nothing in staging.
func TestOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.submit(upload.Item{Step: 5, Files: []lease.File{b.push("model.bin", []byte("weights"))}, Ready: []byte("r"), Parent: "p", Resumable: true})
		b.submit(upload.Item{Files: []lease.File{b.push("report.json", []byte(`{}`))}, ContentType: "application/json"})
		b.run()
		want := []string{"begin 5", "put ", `commit id-5 after "p"`, "begin report.json", "put ", "commit report.json application/json"}
		if !slices.Equal(b.calls, want) {
			t.Fatalf("%q", b.calls)
		}
		if len(b.results) != 2 || b.results[0].ID != "id-5" || !slices.Equal(b.kept, []string{"id-5"}) || b.store.Used() != 0 {
			t.Fatalf("%+v, kept %v, %d bytes staged", b.results, b.kept, b.store.Used())
		}
	})
}

// What was handed over survives a restart at every call, and has its effect once.
func TestRestartAtEveryCall(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for crash := range 3 {
			b := newBench(t)
			b.submit(upload.Item{Step: 5, Files: []lease.File{b.push("model.bin", []byte("weights"))}, Ready: []byte("r")})
			ctx, cancel := context.WithCancel(t.Context())
			count := 0
			b.fail = func(string) error {
				if count++; count > crash {
					cancel() // the process goes; the call fails as it would
					return ctx.Err()
				}
				return nil
			}
			b.pipe.Run(ctx)
			b.fail = nil
			b.open()
			if b.pipe.Pending() != 1 {
				t.Fatalf("crash at call %d: %d items pending", crash, b.pipe.Pending())
			}
			b.run()
			if len(b.results) != 1 || b.results[0].ID != "id-5" || b.store.Used() != 0 {
				t.Fatalf("crash at call %d: %+v", crash, b.results)
			}
		}
	})
}

// A large file goes in parts; a broken upload costs the parts that were under way,
// not those that had arrived, over restarts too.
func TestParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		data := bytes.Repeat([]byte("0123456789abcdef"), (80<<20)/16+1) // five parts and 16 bytes
		file := b.push("model.bin", data)
		b.submit(upload.Item{Step: 5, Files: []lease.File{file}, Ready: []byte("r")})
		ctx, cancel := context.WithCancel(t.Context())
		b.fail = func(call string) error {
			if call == "put 4" {
				cancel()
				return errors.New("connection reset")
			}
			return nil
		}
		b.pipe.Run(ctx)
		arrived := len(b.parts)
		if arrived < 1 || b.parts[4] != nil {
			t.Fatalf("%d parts arrived", arrived)
		}
		b.fail, b.calls = nil, nil
		b.open()
		b.run()
		puts := 0
		for _, c := range b.calls {
			if strings.HasPrefix(c, "put") {
				puts++
			}
		}
		if puts != 6-arrived || !bytes.Equal(b.objects[file.SHA256], data) {
			t.Fatalf("%d parts had arrived, %d were sent after the restart; calls %q", arrived, puts, b.calls)
		}
	})
}

// A store without parts gets the file whole.
func TestNoParts(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.noParts = true
		data := make([]byte, 65<<20)
		file := b.push("model.bin", data)
		b.submit(upload.Item{Step: 5, Files: []lease.File{file}, Ready: []byte("r")})
		b.run()
		if !bytes.Equal(b.objects[file.SHA256], data) {
			t.Fatalf("%q", b.calls)
		}
	})
}

// What can never be committed is reported with every problem, and what follows
// goes on; what may be is tried again until it is.
func TestProblems(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		poisoned := b.push("model.json", []byte(`{`))
		b.submit(upload.Item{Step: 1, Files: []lease.File{poisoned, {Path: "never.bin", SHA256: [32]byte{1}, Size: 3}}, Ready: []byte("r")})
		b.submit(upload.Item{Step: 2, Files: []lease.File{b.push("a.bin", []byte("a"))}, Ready: []byte("r")})
		b.submit(upload.Item{Step: 3, Files: []lease.File{b.push("b.bin", []byte("b"))}, Ready: []byte("r")})
		tries := 0
		b.fail = func(call string) error {
			switch call {
			case "begin 2":
				return fmt.Errorf("%w: too large", lease.ErrRefused)
			case "begin 3":
				if tries++; tries < 5 {
					return errors.New("away")
				}
			}
			return nil
		}
		begun := time.Now()
		b.run()
		if len(b.results) != 3 || len(b.results[0].Problems) != 2 || len(b.results[1].Problems) != 1 || b.results[2].ID != "id-3" || tries != 5 {
			t.Fatalf("%+v after %d tries", b.results, tries)
		}
		if time.Since(begun) < 3*time.Second {
			t.Errorf("five tries in %v: there is no backoff", time.Since(begun))
		}
		if b.store.Used() != 0 {
			t.Errorf("%d bytes stay staged", b.store.Used())
		}
	})
}

// The same thing handed over twice is done once.
func TestRepeat(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		item := upload.Item{Step: 5, Files: []lease.File{b.push("model.bin", []byte("weights"))}, Ready: []byte("r")}
		b.submit(item)
		b.submit(item)
		if b.run(); len(b.results) != 1 {
			t.Fatalf("%+v", b.results)
		}
	})
}

// model is a specialist's file: a trunk of two layers and a head.
func model(t *testing.T, trunk, head byte) []byte {
	t.Helper()
	f := func(name string, fill byte, n int) safetensors.Tensor {
		return safetensors.Tensor{Name: name, DType: "U8", Shape: []int{n}, Data: bytes.Repeat([]byte{fill}, n)}
	}
	b, err := safetensors.Encode([]safetensors.Tensor{f("policy.weight", head, 1500), f("trunk.0.bias", trunk, 512), f("trunk.0.weight", trunk, 32<<10),
		f("trunk.1.weight", trunk+1, 64<<10), f("value.weight", head, 500)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// whole puts a file together from what the store has.
func (r *registry) whole(f lease.File) []byte {
	var out []byte
	for _, c := range r.chunks[f.Path] {
		out = append(out, r.objects[c.SHA256]...)
	}
	return out
}

// Two models with one trunk: the trunk leaves the host once.
func TestATrunkIsSentOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.share = 16 << 10
		b.open()
		for step, head := range []byte{1, 2} {
			data := model(t, 40, head)
			file := b.push("model.safetensors", data)
			b.submit(upload.Item{Step: int64(step), Files: []lease.File{file, b.push("meta.json", []byte(`{}`))}, Ready: []byte("r")})
			b.run()
			if !bytes.Equal(b.whole(file), data) || len(b.chunks) != 1 {
				t.Fatalf("step %d: %d chunks are not the file", step, len(b.chunks[file.Path]))
			}
		}
		if len(b.results) != 2 || b.results[0].Sent < 96<<10 || b.results[1].Sent >= 4<<10 || b.results[1].Sent < 2000 {
			t.Fatalf("sent %d, then %d", b.results[0].Sent, b.results[1].Sent)
		}
	})
}

// A registry that knows no chunks asks for the whole, and gets it; a setting of 0 offers nothing else.
func TestAFileStaysWhole(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for _, share := range []int64{0, 16 << 10} {
			b := newBench(t)
			b.share, b.wholeOnly = share, share > 0
			b.open()
			data := model(t, 40, 1)
			file := b.push("model.safetensors", data)
			odd := b.push("odd.bin", bytes.Repeat([]byte("x"), 100<<10))
			b.submit(upload.Item{Step: 1, Files: []lease.File{file, odd}, Ready: []byte("r")})
			b.run()
			if !bytes.Equal(b.objects[file.SHA256], data) || len(b.chunks[odd.Path]) != 0 || (len(b.chunks) > 0) != (share > 0) {
				t.Fatalf("%d: chunks %v, calls %q", share, b.chunks, b.calls)
			}
		}
	})
}

// A large tensor goes in parts, as a large file does; one checkpoint is never cut into more than the registry takes.
func TestLargeAndManyChunks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		b.share = 1 << 10
		b.open()
		var tensors []safetensors.Tensor
		for i := range 600 {
			tensors = append(tensors, safetensors.Tensor{Name: fmt.Sprintf("t%03d", i), DType: "U8", Shape: []int{1 << 10}, Data: bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 512)})
		}
		large := safetensors.Tensor{Name: "z", DType: "U8", Shape: []int{65 << 20}, Data: make([]byte, 65<<20)}
		data, err := safetensors.Encode(append(tensors, large), nil)
		if err != nil {
			t.Fatal(err)
		}
		var files []lease.File
		for i := range 5 {
			files = append(files, lease.File{Path: fmt.Sprintf("shard%d.safetensors", i), SHA256: b.push("x", data).SHA256, Size: int64(len(data))})
		}
		b.submit(upload.Item{Step: 1, Files: files, Ready: []byte("r")})
		b.run()
		contents := 0
		for _, f := range files {
			contents += max(1, len(b.chunks[f.Path]))
		}
		if contents > 512 || !bytes.Equal(b.whole(files[0]), data) || !slices.Contains(b.calls, "prepare") {
			t.Fatalf("%d contents; calls %.20q", contents, b.calls)
		}
	})
}
