package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestSafetensorsRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var in []Tensor
		for _, name := range rapid.SliceOfDistinct(rapid.StringMatching(`[a-zä."\\]{1,9}`), func(s string) string { return s }).Draw(t, "names") {
			shape := rapid.SliceOfN(rapid.IntRange(0, 4), 0, 3).Draw(t, "shape")
			n, _ := elements(shape)
			in = append(in, Float32(name, rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "values"), shape...))
		}
		b, err := EncodeSafetensors(in, map[string]string{"k": "v"})
		if err != nil {
			t.Fatal(err)
		}
		out, meta, err := DecodeSafetensors(b)
		if err != nil {
			t.Fatal(err)
		}
		if meta["k"] != "v" || len(out) != len(in) || (len(b) >= 8 && binary.LittleEndian.Uint64(b)%64 != 56) {
			t.Fatalf("%d tensors in, %d out, metadata %v", len(in), len(out), meta)
		}
		got := map[string]Tensor{}
		for _, o := range out {
			got[o.Name] = o
		}
		for _, i := range in {
			o := got[i.Name]
			if !bytes.Equal(o.Data, i.Data) || len(o.Shape) != len(i.Shape) || o.DType != "F32" {
				t.Fatalf("%q came back as %+v", i.Name, o)
			}
		}
		again, err := EncodeSafetensors(out, map[string]string{"k": "v"})
		if err != nil || !bytes.Equal(again, b) {
			t.Fatal("the same tensors gave other bytes")
		}
	})
}

func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func TestSafetensorsRefusesHostileFiles(t *testing.T) {
	t.Parallel()
	one := `"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}`
	for name, c := range map[string]struct {
		b    []byte
		want string
	}{
		"empty":          {nil, "too few"},
		"huge header":    {binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "does not fit"},
		"no object":      {file(`[1]`, 0), "start with {"},
		"space first":    {file(` {}`, 0), "start with {"},
		"trailing text":  {file(`{}x`, 0), "after"},
		"twice":          {file(`{`+one+`,`+one+`}`, 8), "twice"},
		"hole":           {file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "holes"},
		"overlap":        {file(`{`+one+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8), "holes"},
		"tail":           {file(`{`+one+`}`, 12), "after the last"},
		"past the end":   {file(`{`+one+`}`, 4), "does not fit"},
		"wrong shape":    {file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`, 8), "does not fit"},
		"overflow":       {file(`{"a":{"dtype":"F64","shape":[4611686018427387904,4],"data_offsets":[0,0]}}`, 0), "does not fit"},
		"negative":       {file(`{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}`, 0), "does not fit"},
		"dtype":          {file(`{"a":{"dtype":"C64","shape":[],"data_offsets":[0,8]}}`, 8), "unknown dtype"},
		"unknown member": {file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}}`, 8), "unknown field"},
		"deep":           {file(`{"a":`+strings.Repeat("[", 20000), 0), "depth"},
	} {
		if _, _, err := DecodeSafetensors(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	scalar := file(`{"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"q":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[8,12]}}`, 12)
	if out, _, err := DecodeSafetensors(scalar); err != nil || len(out) != 2 {
		t.Errorf("a 0-dim tensor and an F8: %v, %v", out, err)
	}
}

func FuzzDecodeSafetensors(f *testing.F) {
	b, err := EncodeSafetensors([]Tensor{Float32("w", []float32{1, 2}, 2), Float32("b", nil, 0)}, map[string]string{"format": "pt"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(file(`{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}`, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, meta, err := DecodeSafetensors(b)
		if err != nil {
			return
		}
		if _, err := EncodeSafetensors(out, meta); err != nil && !strings.Contains(err.Error(), "reserved") {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}

func TestStateRoundTripAndDamage(t *testing.T) {
	t.Parallel()
	in := []Section{{"run", []byte(`{"Epoch":3}`)}, {"learner", bytes.Repeat([]byte{7}, 1000)}, {"empty", nil}}
	b := EncodeState(in)
	out, err := DecodeState(b)
	if err != nil || len(out) != 3 || string(out["run"]) != `{"Epoch":3}` || len(out["empty"]) != 0 {
		t.Fatalf("%v, %v", out, err)
	}
	for i := 0; i < len(b); i += 13 {
		bad := bytes.Clone(b)
		bad[i] ^= 0x10
		if _, err := DecodeState(bad); err == nil {
			t.Fatalf("a flipped bit in byte %d was not noticed", i)
		}
		if _, err := DecodeState(b[:i]); err == nil {
			t.Fatalf("a file cut at %d was taken", i)
		}
	}
	// A wrong length under a right digest.
	body := append([]byte(nil), b[:len(b)-sha256.Size]...)
	binary.LittleEndian.PutUint64(body[len(stateMagic)+16:], 1<<62)
	sum := sha256.Sum256(body)
	if _, err := DecodeState(append(body, sum[:]...)); err == nil {
		t.Error("an absurd length was taken")
	}
}

func TestWritePublishesWholeDirectories(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "checkpoints", "12")
	files, err := Write(dir, []Content{{"a.bin", []byte("one")}, {"b.json", []byte("{}")}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(dir, []Content{{"a.bin", []byte("two")}}); err != nil {
		t.Fatal(err)
	}
	got, err := Describe("a.bin", files[0].Path)
	if err != nil || got.Size != 3 || got.SHA256 != sha256.Sum256([]byte("two")) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := os.Stat(files[1].Path); err == nil {
		t.Error("a file of the older directory is still there")
	}
	left, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	if _, err := Write(dir, []Content{{"missing/a", nil}}); err == nil {
		t.Error("a path without its directory was written")
	}
	if !reflect.DeepEqual(mustRead(t, filepath.Join(dir, "a.bin")), []byte("two")) {
		t.Error("a failed write damaged the directory")
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
