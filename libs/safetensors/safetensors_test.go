package safetensors

import (
	"bytes"
	"encoding/binary"
	"math"
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
		b, err := Encode(in, map[string]string{"k": "v"})
		if err != nil {
			t.Fatal(err)
		}
		out, meta, err := Decode(b)
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
		again, err := Encode(out, map[string]string{"k": "v"})
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
		if _, _, err := Decode(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	scalar := file(`{"step":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"q":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[8,12]}}`, 12)
	if out, _, err := Decode(scalar); err != nil || len(out) != 2 {
		t.Errorf("a 0-dim tensor and an F8: %v, %v", out, err)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode([]Tensor{Float32("w", []float32{1, 2}, 2), Float32("b", nil, 0)}, map[string]string{"format": "pt"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(file(`{"a":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,8]}}`, 8))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, meta, err := Decode(b)
		if err != nil {
			return
		}
		if _, err := Encode(out, meta); err != nil && !strings.Contains(err.Error(), "reserved") {
			t.Fatalf("what was read cannot be written: %v", err)
		}
	})
}
