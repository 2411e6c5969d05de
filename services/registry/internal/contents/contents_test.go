package contents

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// bucket is a store in memory, which verifies as the real one does.
type bucket struct {
	objects map[string][]byte
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

func (b *bucket) Get(_ context.Context, key, want string) (io.ReadCloser, error) {
	o, ok := b.objects[key]
	if !ok {
		return nil, objectstore.ErrNotFound
	}
	if digest(o) != want {
		return &body{io.MultiReader(bytes.NewReader(o), iotest.ErrReader(objectstore.ErrDigestMismatch))}, nil
	}
	return &body{iotest.HalfReader(bytes.NewReader(o))}, nil
}

func (b *bucket) GetRange(_ context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	o, ok := b.objects[key]
	if !ok {
		return nil, objectstore.ErrNotFound
	}
	return &body{bytes.NewReader(o[offset:min(int64(len(o)), offset+length)])}, nil
}

type body struct{ io.Reader }

func (*body) Close() error { return nil }

// cut stores a file in pieces.
func (b *bucket) cut(data []byte, at []int) catalog.File {
	f := catalog.File{Name: "f", SHA256: digest(data), Size: int64(len(data))}
	from := 0
	for _, to := range append(at, len(data)) {
		piece := data[from:to]
		key := "key-" + digest(piece)
		b.objects[key] = piece
		f.Chunks = append(f.Chunks, catalog.File{Name: "f", SHA256: digest(piece), Size: int64(len(piece)), ObjectKey: key})
		from = to
	}
	if len(f.Chunks) == 1 {
		f.ObjectKey, f.Chunks = f.Chunks[0].ObjectKey, nil
	}
	return f
}

func read(r io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	all, err := io.ReadAll(r)
	return all, errors.Join(err, r.Close())
}

// However a file is cut, it reads as itself, whole and in any range.
func TestChunksReadAsTheFile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 60).Draw(t, "data")
		at := map[int]bool{}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, len(data)), 0, 6).Draw(t, "cuts") {
			if n > 0 && n < len(data) {
				at[n] = true
			}
		}
		var cuts []int
		for n := range len(data) {
			if at[n] {
				cuts = append(cuts, n)
			}
		}
		b := &bucket{objects: map[string][]byte{}}
		f := b.cut(data, cuts)
		if got, err := read(Open(context.Background(), b, f)); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%v: %q instead of %q", err, got, data)
		}
		if err := Prove(context.Background(), b, f); err != nil {
			t.Fatal(err)
		}
		from := rapid.Int64Range(0, int64(len(data))).Draw(t, "from")
		length := rapid.Int64Range(0, int64(len(data))-from).Draw(t, "length")
		if got, err := read(OpenRange(context.Background(), b, f, from, length)); err != nil || !bytes.Equal(got, data[from:from+length]) {
			t.Fatalf("%d+%d: %v: %q instead of %q", from, length, err, got, data[from:from+length])
		}
	})
}

// What is not the file never ends cleanly.
func TestWhatIsNotTheFileDoesNotEnd(t *testing.T) {
	t.Parallel()
	fresh := func() (*bucket, catalog.File) {
		b := &bucket{objects: map[string][]byte{}}
		return b, b.cut([]byte("the quick brown fox"), []int{4, 10})
	}
	for name, c := range map[string]struct {
		spoil func(*bucket, *catalog.File)
		want  error
	}{
		"another whole":    {func(_ *bucket, f *catalog.File) { f.SHA256 = digest(nil) }, objectstore.ErrDigestMismatch},
		"another order":    {func(_ *bucket, f *catalog.File) { f.Chunks[0], f.Chunks[1] = f.Chunks[1], f.Chunks[0] }, objectstore.ErrDigestMismatch},
		"a chunk changed":  {func(b *bucket, f *catalog.File) { b.objects[f.Chunks[1].ObjectKey] = []byte("slow!!") }, objectstore.ErrDigestMismatch},
		"the first gone":   {func(b *bucket, f *catalog.File) { delete(b.objects, f.Chunks[0].ObjectKey) }, objectstore.ErrNotFound},
		"the last gone":    {func(b *bucket, f *catalog.File) { delete(b.objects, f.Chunks[2].ObjectKey) }, objectstore.ErrNotFound},
		"a chunk too long": {func(_ *bucket, f *catalog.File) { f.Chunks[2].Size++ }, objectstore.ErrUnavailable},
	} {
		b, f := fresh()
		c.spoil(b, &f)
		got, err := read(Open(context.Background(), b, f))
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	b, f := fresh()
	delete(b.objects, f.Chunks[2].ObjectKey)
	r, err := OpenRange(context.Background(), b, f, 2, 10)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); !errors.Is(err, objectstore.ErrNotFound) || string(got) != "e quick " {
		t.Errorf("a range without its end: %q, %v", got, err)
	}
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, objectstore.ErrNotFound) {
		t.Errorf("after the error: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
