package modelfile

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func encode(t *testing.T, tensors ...safetensors.Tensor) []byte {
	t.Helper()
	b, err := safetensors.Encode(tensors, map[string]string{"made": "here"})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestTorchFilesAreDescribed reads the reader's own fixtures: what torch wrote and
// what was written to harm.
func TestTorchFilesAreDescribed(t *testing.T) {
	t.Parallel()
	dir := filepath.Join("..", "..", "..", "libs", "pth", "testdata")
	r := Check(filepath.Join(dir, "tied.zip.p2.pth"), Options{})
	if !r.OK() || r.Format != "zip" || len(r.Tensors) != 2 || r.Tensors[0].SHA256 != r.Tensors[1].SHA256 || r.Tensors[0].Bytes != 96 {
		t.Errorf("%+v", r)
	}
	r = Check(filepath.Join(dir, "hostile_system.zip.pth"), Options{})
	if r.OK() || !strings.Contains(r.Error, "posix.system") || len(r.Tensors) != 0 {
		t.Errorf("%+v", r)
	}
	r = Check(filepath.Join(dir, "hostile_system.zip.pth"), Options{Lenient: true})
	if r.OK() || len(r.Refused) != 1 || len(r.Tensors) != 1 {
		t.Errorf("lenient: %+v", r)
	}
	r = Check(filepath.Join(dir, "specialist.pth"), Options{})
	if a := r.Architecture; a != nil {
		t.Errorf("two sets of weights in one file cannot be one network: %+v", a)
	}
	text, err := json.Marshal(Check(filepath.Join(dir, "halves.zip.p2.pth"), Options{}))
	if err != nil || !strings.Contains(string(text), `"not_finite":1`) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestWhatIsNoModelFile(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	z := zip.NewWriter(&bomb)
	w, err := z.Create("archive/data.pkl") // deflated
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		filepath.Join(t.TempDir(), "none.pth"): "no such file",
		t.TempDir():                            "not a regular file",
		pipe:                                   "not a regular file",
		write(t, "empty.pth", nil):             "empty",
		write(t, "text.pth", []byte("hello, world")):                   "neither a zip nor",
		write(t, "bomb.pth", bomb.Bytes()):                             "not stored plainly",
		write(t, "cut.safetensors", []byte{1, 2}):                      "too few",
		write(t, "huge.safetensors", bytes.Repeat([]byte{0xff}, 4096)): "does not fit",
	} {
		if r := Check(name, Options{}); r.OK() || !strings.Contains(r.Error, want) {
			t.Errorf("%s: %q, want %q", name, r.Error, want)
		}
	}
}

func TestAFileThatIsCutWhileItIsRead(t *testing.T) {
	t.Parallel()
	path := write(t, "a.safetensors", make([]byte, 1<<20))
	err := open(path, func(b []byte) error {
		if err := os.Truncate(path, 0); err != nil {
			return err
		}
		sum := 0
		for _, x := range b {
			sum += int(x)
		}
		t.Errorf("the lost pages were read: %d", sum)
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "changed while it was read") {
		t.Errorf("%v", err)
	}
}

func matrix(name string, outputs, inputs int) safetensors.Tensor {
	v := make([]float32, outputs*inputs)
	for i := range v {
		v[i] = float32(i)
	}
	return safetensors.Float32(name, v, outputs, inputs)
}

func vector(name string, n int) safetensors.Tensor {
	return safetensors.Float32(name, make([]float32, n), n)
}

func TestInfer(t *testing.T) {
	t.Parallel()
	network := []safetensors.Tensor{
		matrix("model.fc1.weight", 8, 6), vector("model.fc1.bias", 8), matrix("model.fc2.weight", 8, 8), vector("model.fc2.bias", 8),
		matrix("model.actor.weight", 3, 8), vector("model.actor.bias", 3), matrix("model.critic.weight", 1, 8), vector("model.critic.bias", 1),
		vector("optimizer.state.0.exp_avg", 48),
	}
	a, err := Infer(network, nil)
	if err != nil || a.Inputs != 6 || !reflect.DeepEqual(a.Hidden, []int{8, 8}) || a.Actions != 3 || len(a.Ignored) != 1 {
		t.Fatalf("%+v, %v", a, err)
	}
	out, err := a.Convert()
	if err != nil || len(out) != 8 || out[0].Name != "trunk.0.weight" || out[7].Name != "value.bias" {
		t.Fatalf("%+v, %v", out, err)
	}
	for name, c := range map[string]struct {
		tensors []safetensors.Tensor
		mapping string
		want    string
	}{
		"nothing":          {nil, "", "no tensor NAME.weight"},
		"no policy":        {[]safetensors.Tensor{matrix("a.weight", 8, 6), matrix("b.weight", 5, 8)}, "", "which layer is the policy"},
		"not one trunk":    {[]safetensors.Tensor{matrix("a.weight", 8, 6), matrix("pi.weight", 3, 7)}, "", "do not share"},
		"no chain":         {[]safetensors.Tensor{matrix("a.weight", 8, 6), matrix("b.weight", 8, 9), matrix("pi.weight", 3, 8)}, "", "takes 9 inputs"},
		"a norm":           {append([]safetensors.Tensor{vector("bn.weight", 8)}, network...), "", "bn.weight"},
		"two policies":     {network[:6], "layers: {model.fc1: policy, model.fc2: policy, model.actor: policy}", "are both policy"},
		"incomplete":       {network[:8], "layers: {model.fc1: trunk.0}", "says nothing of the layer"},
		"unknown":          {network[:8], "layers: {fc9: trunk.0}", "does not have"},
		"a gap":            {network[:6], "layers: {model.fc1: trunk.0, model.fc2: trunk.2, model.actor: policy}", "without a gap"},
		"bad role":         {nil, "layers: {x: trunk.x}", "none of trunk.N"},
		"unknown member":   {nil, "laiers: {}", "what it should be"},
		"critic too broad": {[]safetensors.Tensor{matrix("pi.weight", 3, 8), matrix("q.weight", 2, 8)}, "layers: {pi: policy, q: value}", "not one"},
	} {
		m, err := (*Mapping)(nil), error(nil)
		if c.mapping != "" {
			m, err = ParseMapping([]byte(c.mapping))
		}
		if err == nil {
			_, err = Infer(c.tensors, m)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	// Odd names, a layer without bias, half precision, and a pattern.
	half := safetensors.Tensor{Name: "x1.weight", DType: "F16", Shape: []int{1, 2}, Data: []byte{0x00, 0x3c, 0x01, 0x00}}
	m, err := ParseMapping([]byte("layers: {x1: trunk.0, x2: policy}\nignore: ['stats.*']"))
	if err != nil {
		t.Fatal(err)
	}
	a, err = Infer([]safetensors.Tensor{half, matrix("x2.weight", 2, 1), vector("stats.mean", 4)}, m)
	if err != nil {
		t.Fatal(err)
	}
	out, err = a.Convert()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := out[0].Float32s(); err != nil || v[0] != 1 || v[1] != 0x1p-24 || len(out[1].Data) != 4 {
		t.Errorf("%v, %v", out, err)
	}
	binary.LittleEndian.PutUint16(half.Data, 0x7c00)
	if _, err := a.Convert(); err == nil || !strings.Contains(err.Error(), "NaN or infinite") {
		t.Errorf("%v", err)
	}
}

func TestNotFinite(t *testing.T) {
	t.Parallel()
	b := binary.LittleEndian.AppendUint64(nil, math.Float64bits(math.NaN()))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(1))
	if n := notFinite("F64", b); n != 1 {
		t.Error(n)
	}
	if n := notFinite("BF16", []byte{0x80, 0x7f, 0x80, 0x3f}); n != 1 {
		t.Error(n)
	}
	if n := notFinite("I32", b); n != 0 {
		t.Error(n)
	}
}

// TestEncodedMetadataIsShown beside the tensors.
func TestEncodedMetadataIsShown(t *testing.T) {
	t.Parallel()
	r := Check(write(t, "a.bin", encode(t, vector("w", 2))), Options{})
	if !r.OK() || r.Format != "safetensors" || len(r.Values) != 1 || r.Values[0].Value != "here" {
		t.Errorf("%+v", r)
	}
}
