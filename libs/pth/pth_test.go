package pth

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func load(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

var dtypeNames = map[string]string{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
	"I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "U16": "uint16", "U32": "uint32", "U64": "uint64",
	"F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}

// TestEveryTensorOfTorch reads what torch wrote, in both formats and five
// protocols, and compares name, dtype, shape and the bytes' checksum.
func TestEveryTensorOfTorch(t *testing.T) {
	t.Parallel()
	var index map[string]map[string]struct {
		DType string
		Shape []int
		CRC32 uint32
	}
	if err := json.Unmarshal(load(t, "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	if len(index) < 30 {
		t.Fatalf("only %d fixtures", len(index))
	}
	for name, want := range index {
		f, err := Read(load(t, name), Options{Share: len(name)%2 == 0})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if len(f.Tensors) != len(want) || !strings.Contains(name, f.Format) {
			t.Errorf("%s: %d tensors in a %s file, want %d", name, len(f.Tensors), f.Format, len(want))
		}
		for _, got := range f.Tensors {
			w, ok := want[got.Name]
			if !ok || w.DType != dtypeNames[got.DType] || !slices.Equal(w.Shape, got.Shape) || crc32.ChecksumIEEE(got.Data) != w.CRC32 {
				t.Errorf("%s: %s: %s%v, want %s%v, or its values differ", name, got.Name, got.DType, got.Shape, w.DType, w.Shape)
			}
		}
	}
}

func TestScalars(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"nested.zip.p2.pth", "nested.legacy.p4.pth", "numpy_scalars.zip.p4.pth", "containers.zip.p2.pth", "containers.legacy.p4.pth"} {
		f, err := Read(load(t, name), Options{})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]any{}
		for _, s := range f.Scalars {
			got[s.Name] = s.Value
		}
		want := map[string]any{"epoch": int64(3), "best": 1.25, "name": "bull", "none": nil, "flag": true, "big": "1208925819614629174706176",
			"neg": int64(-5), "optimizer.param_groups.0.lr": 0.001}
		switch name[:3] {
		case "num":
			want = map[string]any{"f": 2.5, "i": int64(-7)}
		case "con":
			want = map[string]any{"list.1": int64(1), "tuple.1": "x", "set.0": int64(1), "size.1": int64(3), "dtype": "torch.float16", "od.a": int64(1)}
			if string(got["bytes"].([]byte)) != "\x00\xff" {
				t.Errorf("%s: bytes %v", name, got["bytes"])
			}
		}
		for k, v := range want {
			if g, ok := got[k]; !ok || g != v {
				t.Errorf("%s: %s = %#v, want %#v", name, k, g, v)
			}
		}
	}
}

func TestHalfPrecision(t *testing.T) {
	t.Parallel()
	f, err := Read(load(t, "halves.zip.p2.pth"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	v, err := f.Tensors[0].Float32s()
	if err != nil {
		t.Fatal(err)
	}
	// 6e-8 rounds to the smallest subnormal, 2^-24; 3.05e-5 to 512 of them.
	if v[0] != 0x1p-24 || v[1] != 0x1p-15 || v[2] != 65504 || !math.IsInf(float64(v[3]), 1) || math.Float32bits(v[4]) != 1<<31 {
		t.Errorf("%v", v)
	}
	if !math.IsNaN(float64(Float16(0x7e00))) || Float16(0x3c00) != 1 {
		t.Error("NaN or one")
	}
}

// TestSmallTypes: every 8-bit float has its value.
func TestSmallTypes(t *testing.T) {
	t.Parallel()
	for b, want := range map[byte]float32{0x00: 0, 0x01: 0x1p-9, 0x07: 7 * 0x1p-9, 0x08: 0x1p-6, 0x38: 1, 0x7e: 448, 0xc0: -2} {
		if got := float8(b); got != want {
			t.Errorf("e4m3 %02x is %v, want %v", b, got, want)
		}
	}
	x := Tensor{DType: "F8_E5M2", Data: []byte{0x3c, 0x7b, 0x01}}
	if v, err := x.Float32s(); err != nil || v[0] != 1 || v[1] != 57344 || v[2] != 0x1p-16 || !math.IsNaN(float64(float8(0xff))) {
		t.Errorf("%v, %v", v, err)
	}
}

// TestOverlappingRecordsAreRefused: two records share their bytes, as a file must
// that claims more than it has.
func TestOverlappingRecordsAreRefused(t *testing.T) {
	t.Parallel()
	b := load(t, "views.zip.p2.pth")
	// The directory's entries lie at the end: every one is pointed at the first.
	at := bytes.Index(b, []byte("PK\x01\x02"))
	first := slices.Clone(b[at+42 : at+46])
	next := at + 46 + bytes.Index(b[at+46:], []byte("PK\x01\x02"))
	copy(b[next+42:], first)
	if _, err := Read(b, Options{}); err == nil || !strings.Contains(err.Error(), "overlap") {
		t.Errorf("%v", err)
	}
}

// TestNamesAndValuesAreBounded: a million values under one long name, and a pickle
// of nothing but lists.
func TestNamesAndValuesAreBounded(t *testing.T) {
	t.Parallel()
	name := strings.Repeat("n", 1000)
	b := append([]byte("\x80\x04}X"), binary.LittleEndian.AppendUint32(nil, 1000)...)
	b = append(b, name...)
	b = append(b, "]("+strings.Repeat("N", 1_000_000)+"es."...)
	r := &reader{options: Options{Limit: 64 << 20}, values: maxValueBytes}
	v, _, err := r.unpickle(b, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := walker{reader: r, file: &File{}, left: maxElements}
	if err := w.walk("", v, 0); err == nil {
		t.Error("a gigabyte of names was kept")
	}
	r = &reader{values: 1 << 20}
	if _, _, err := r.unpickle([]byte(strings.Repeat("]", 1<<20)), nil); err == nil || !strings.Contains(err.Error(), "memory") {
		t.Errorf("%v", err)
	}
}

// TestMemoNumbers: in order, out of order, again, and with gaps.
func TestMemoNumbers(t *testing.T) {
	t.Parallel()
	r := &reader{values: 1 << 20}
	v, _, err := r.unpickle([]byte("\x80\x02(K\x01q\x00K\x02q\x05K\x03q\x01K\x04q\x00h\x00h\x05h\x01t."), nil)
	got, ok := v.(tuple)
	if err != nil || !ok || !slices.Equal(got[4:], tuple{int64(4), int64(2), int64(3)}) {
		t.Errorf("%v, %v", v, err)
	}
}

// TestTheLastValueOfAKeyCounts, wherever it stands.
func TestTheLastValueOfAKeyCounts(t *testing.T) {
	t.Parallel()
	d := &dict{}
	if err := d.fill([]any{"a", int64(1), "b", int64(2), "a", int64(3)}); err != nil || len(d.keys) != 2 || d.values[0] != int64(3) {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestCodeIsRefusedAndNeverRuns has the classic pickle that calls os.system.
func TestCodeIsRefusedAndNeverRuns(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"hostile_system.zip.pth": "posix.system", "hostile_system.legacy.pth": "posix.system",
		"namespace.pth": "argparse.Namespace", "numpy_array.pth": "_reconstruct", "module.pth": "Sequential", "complex.pth": "ComplexFloatStorage",
		"script.pth": "TorchScript"} {
		_, err := Read(load(t, name), Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want it to name %s", name, err, want)
		}
	}
	for _, name := range []string{"hostile_system.zip.pth", "namespace.pth", "numpy_array.pth"} {
		f, err := Read(load(t, name), Options{Lenient: true})
		if err != nil || len(f.Tensors) != 1 || f.Tensors[0].Name != "w" || len(f.Refused) == 0 {
			t.Errorf("%s, lenient: %+v, %v", name, f, err)
		}
	}
	if _, err := os.Stat("pth-was-here"); err == nil {
		t.Error("the pickle ran")
	}
}

func short(n string) []byte { return append([]byte{0x8c, byte(len(n))}, n...) }

// TestSmallFilesCannotAskForMuch: lengths, repeats and nesting are bounded before
// memory is.
func TestSmallFilesCannotAskForMuch(t *testing.T) {
	t.Parallel()
	pickle := func(parts ...[]byte) []byte {
		out := []byte{0x80, 4}
		for _, p := range parts {
			out = append(out, p...)
		}
		return append(out, '.')
	}
	deep := []byte(strings.Repeat("]", 100) + strings.Repeat("a", 99))
	laughs := []byte("]\x94")
	for range 40 { // each list holds the one before twice
		laughs = append(laughs, "]h\x00h\x00"...)
		laughs = append(laughs, "\x86q\x00"...)
	}
	self := []byte("]\x94h\x00a")
	for name, c := range map[string][]byte{
		"length beyond the file": pickle([]byte{0x8e}, binary.LittleEndian.AppendUint64(nil, 1<<40)),
		"nesting":                pickle(deep),
		"laughs":                 pickle(laughs),
		"a list in itself":       pickle(self),
		"empty memo":             pickle([]byte("h\x05")),
		"no mark":                pickle([]byte("t")),
		"unknown opcode":         pickle([]byte{0xff}),
		"build on a list":        pickle([]byte("]]b")),
		"instance":               pickle([]byte("(iposix\nsystem\n")),
		"extension":              pickle([]byte{0x82, 1}),
		"a call of a text":       pickle(short("x"), []byte(")R")),
	} {
		m := &reader{refused: map[string]bool{}, options: Options{Limit: 1 << 20}, values: 1 << 20}
		v, _, err := m.unpickle(c, nil)
		if err == nil {
			w := walker{reader: m, file: &File{}, left: 1000}
			err = w.walk("", v, 0)
		}
		if err == nil {
			t.Errorf("%s was read", name)
		}
	}
	for name, v := range map[string]*tensorValue{
		"past the end":  {dtype: "F32", storage: &storage{dtype: "F32", data: make([]byte, 16)}, offset: 2, shape: []int64{3}, stride: []int64{1}},
		"far stride":    {dtype: "F32", storage: &storage{dtype: "F32", data: make([]byte, 16)}, shape: []int64{2}, stride: []int64{1 << 62}},
		"huge shape":    {dtype: "U8", storage: &storage{dtype: "U8", data: make([]byte, 16)}, shape: []int64{1 << 39, 1 << 39}, stride: []int64{0, 0}},
		"huge repeat":   {dtype: "U8", storage: &storage{dtype: "U8", data: make([]byte, 16)}, shape: []int64{1 << 30}, stride: []int64{0}},
		"offset":        {dtype: "U8", storage: &storage{dtype: "U8", data: make([]byte, 16)}, offset: math.MaxInt64, shape: []int64{1}, stride: []int64{1}},
		"overflow sums": {dtype: "U8", storage: &storage{dtype: "U8", data: make([]byte, 16)}, shape: []int64{1 << 20, 1 << 20, 1}, stride: []int64{1 << 40, 1 << 40, 1}},
	} {
		w := walker{reader: &reader{options: Options{Limit: 1 << 20}}, file: &File{}, left: 10}
		if _, err := w.tensor("x", v); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

// TestDamagedFilesAreErrors flips, cuts and splices the fixtures: an error or a
// sound result, never a panic.
func TestDamagedFilesAreErrors(t *testing.T) {
	t.Parallel()
	names, err := filepath.Glob("testdata/*.pth")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	wrong := 0
	for _, name := range names {
		good, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if len(good) > 20_000 {
			continue
		}
		for range 300 {
			b := slices.Clone(good)
			for range 1 + rng.IntN(4) {
				b[rng.IntN(len(b))] = byte(rng.Uint32())
			}
			if rng.IntN(4) == 0 {
				b = b[:rng.IntN(len(b))]
			}
			if _, err := Read(b, Options{Lenient: rng.IntN(2) == 0}); err != nil {
				wrong++
			}
		}
	}
	if wrong == 0 {
		t.Error("no damage was ever noticed")
	}
	for _, b := range [][]byte{nil, []byte("PK\x03\x04"), make([]byte, 1024)} {
		if _, err := Read(b, Options{}); err == nil {
			t.Errorf("%d bytes of nothing were read", len(b))
		}
	}
}

func FuzzRead(f *testing.F) {
	for _, name := range []string{"state_dict.zip.p2.pth", "nested.legacy.p4.pth", "views.legacy.p2.pth", "containers.zip.p4.pth", "hostile_system.legacy.pth", "numpy_scalars.legacy.p4.pth"} {
		f.Add(load(f, name))
	}
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = Read(b, Options{Lenient: true, Limit: 1 << 20})
		_, _ = Read(b, Options{Limit: 1 << 20})
	})
}

// FuzzPickle goes past the zip's checksum.
func FuzzPickle(f *testing.F) {
	f.Add([]byte("\x80\x02ccollections\nOrderedDict\nq\x00)Rq\x01X\x01\x00\x00\x00aq\x02K\x01s."))
	f.Fuzz(func(_ *testing.T, b []byte) {
		r := &reader{options: Options{Lenient: true, Limit: 1 << 20}, refused: map[string]bool{}, storages: map[string]*storage{}, values: maxValueBytes}
		v, _, err := r.unpickle(b, func(id any) (any, error) {
			s, _, err := r.storageOf(id)
			if s != nil && s.count < 1<<16 {
				s.data = make([]byte, s.count*int64(sizes[s.dtype]))
			}
			return orOpaque(s), err
		})
		if err == nil {
			w := walker{reader: r, file: &File{}, left: 10_000}
			_ = w.walk("", v, 0)
		}
	})
}

func BenchmarkRead(b *testing.B) {
	data := load(b, "specialist.pth")
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if _, err := Read(data, Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
