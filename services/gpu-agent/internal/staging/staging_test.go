package staging_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// content is a file in memory.
type content struct{ *bytes.Reader }

func (content) Close() error { return nil }

func open(t *testing.T, dir string, max int64) *staging.Store {
	t.Helper()
	s, err := staging.Open(dir, max, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func push(s *staging.Store, size int64, data []byte, digest [32]byte) error {
	u, err := s.Begin(size)
	if err != nil {
		return err
	}
	if _, err := u.Write(data); err != nil {
		return errors.Join(err, u.Abort())
	}
	return u.Commit(digest)
}

// A file is kept only when it is what was announced; whatever fails leaves nothing.
func TestUpload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 100)
	data := []byte("weights")
	sum := sha256.Sum256(data)
	for _, c := range []struct {
		name   string
		size   int64
		data   []byte
		digest [32]byte
		want   error
	}{
		{"too much", 3, data, sum, staging.ErrSize},
		{"too little", 30, data, sum, staging.ErrSize},
		{"other digest", 7, data, [32]byte{1}, staging.ErrDigest},
		{"too large", 101, data, sum, staging.ErrFull},
		{"negative", -1, nil, sum, staging.ErrFull},
	} {
		if err := push(s, c.size, c.data, c.digest); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 || s.Used() != 0 {
		t.Fatalf("left behind: %v, %d bytes, %v", entries, s.Used(), err)
	}
	for range 2 { // the same content again is free
		if err := push(s, 7, data, sum); err != nil {
			t.Fatal(err)
		}
	}
	if !s.Has(sum, 7) || s.Has(sum, 8) || s.Used() != 7 {
		t.Fatalf("used %d", s.Used())
	}
	if again := open(t, dir, 100); again.Used() != 7 {
		t.Fatalf("after a restart: used %d", again.Used())
	}
}

// Content that was pushed again for the next checkpoint outlives the one before.
func TestRemoveKeepsWhatWasPushedAgain(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 100)
	data := []byte("frozen")
	sum := sha256.Sum256(data)
	file := lease.File{SHA256: sum, Size: 6}
	for _, claimed := range []bool{false, true} {
		if err := push(s, 6, data, sum); err != nil {
			t.Fatal(err)
		}
		if claimed {
			s.Claim(file)
		}
		if err := s.Remove(sum); err != nil {
			t.Fatal(err)
		}
		if s.Has(sum, 6) == claimed {
			t.Fatalf("claimed %v: kept %v", claimed, s.Has(sum, 6))
		}
	}
}

func safetensors(header string, data []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

func f32(values ...float32) (out []byte) {
	for _, v := range values {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(v))
	}
	return out
}

// Only sound, finite files pass.
func TestValidate(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	long := f32(make([]float32, 100_000)...)
	poisoned := bytes.Clone(long)
	copy(poisoned[4*99_999:], f32(nan))
	for _, c := range []struct {
		name, file string
		data       []byte
		problem    string
	}{
		{"good", "m.safetensors", safetensors(`{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[],"data_offsets":[8,12]}}`, f32(1, 2, 3)), ""},
		{"empty tensor", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}`, nil), ""},
		{"nan", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, f32(1, nan)), "element 1 is not finite"},
		{"inf", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, f32(inf, 1)), "element 0 is not finite"},
		{"nan at the end", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[100000],"data_offsets":[0,400000]}}`, poisoned), "element 99999 is not finite"},
		{"bf16 inf", "m.safetensors", safetensors(`{"w":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}`, []byte{0x80, 0x7f}), "not finite"},
		{"f16 nan", "m.safetensors", safetensors(`{"w":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}}`, []byte{0x01, 0x7c}), "not finite"},
		{"integers have no nan", "m.safetensors", safetensors(`{"w":{"dtype":"I32","shape":[1],"data_offsets":[0,4]}}`, []byte{0xff, 0xff, 0xff, 0xff}), ""},
		{"gap", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, f32(1, 2)), "expected to begin at 0"},
		{"overlap", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"v":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, f32(1, 2)), "expected to begin"},
		{"beyond the end", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}`, f32(1)), "within 4 bytes"},
		{"left over", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, f32(1, 2)), "belong to no tensor"},
		{"shape", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, f32(1, 2)), "size of its data"},
		{"overflow", "m.safetensors", safetensors(`{"w":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}}`, f32(1, 2, 3, 4)), "size of its data"},
		{"dtype", "m.safetensors", safetensors(`{"w":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}`, f32(1)), "size of its data"},
		{"header too long", "m.safetensors", binary.LittleEndian.AppendUint64(nil, 1<<40), "claims"},
		{"not json", "m.safetensors", safetensors(`{"w"`, nil), "not JSON"},
		{"short", "m.safetensors", []byte("abc"), "shorter"},
		{"json", "meta.json", []byte(`{"a":1}`), ""},
		{"bad json", "meta.json", []byte(`{"a":`), "not valid JSON"},
		{"other", "trainer_state.bin", []byte{0xff}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(staging.Validate(c.file, content{bytes.NewReader(c.data)}), "; ")
			if (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) {
				t.Fatalf("problems %q, want %q", got, c.problem)
			}
		})
	}
}

// No file, however broken, makes the validation panic.
func FuzzValidate(f *testing.F) {
	f.Add(safetensors(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, f32(1)))
	f.Add(safetensors(`{"w":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[18446744073709551615,1]}}`, nil))
	f.Fuzz(func(_ *testing.T, data []byte) {
		staging.Validate("m.safetensors", content{bytes.NewReader(data)})
	})
}
