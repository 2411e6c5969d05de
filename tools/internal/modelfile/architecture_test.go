package modelfile

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// fixture reads a network that torch wrote, and what torch computed with it.
func fixture(t *testing.T, name string) (tensors []safetensors.Tensor, want struct {
	X      [][]json.RawMessage
	Logits [][]float64
	Value  []float64
}) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name+".pth"))
	if err != nil {
		t.Fatal(err)
	}
	m, err := parse(name+".pth", data, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join("testdata", name+".json")); err == nil {
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
	}
	return m.tensors, want
}

// converted computes with the tensors that a conversion gave, as the learner does:
// relu (or tanh) after the trunk's layers, the convolution position by position.
func converted(t *testing.T, a *Architecture, tensors []safetensors.Tensor, x, past []float32) (logits []float64, value float64) {
	t.Helper()
	byName := map[string][]float32{}
	for _, x := range tensors {
		v, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		byName[x.Name] = v
	}
	in := make([]float64, 0, 64)
	for _, v := range x {
		in = append(in, float64(v))
	}
	if c := a.Temporal; c != nil {
		w, b := byName["history.weight"], byName["history.bias"]
		for p := range c.positions() {
			for o := range c.Channels {
				sum := float64(b[o])
				for f := range c.Features {
					for k := range c.Width {
						sum += float64(w[(o*c.Features+f)*c.Width+k]) * float64(past[f*c.Bars+p*c.Stride+k])
					}
				}
				in = append(in, max(sum, 0))
			}
		}
	}
	for i := range a.Hidden {
		prefix := "trunk." + string(rune('0'+i))
		in = a.activate(affineMap(byName[prefix+".weight"], byName[prefix+".bias"], in))
	}
	logits = affineMap(byName["policy.weight"], byName["policy.bias"], in)
	if w := byName["value.weight"]; w != nil {
		value = affineMap(w, byName["value.bias"], in)[0]
	}
	return logits, value
}

// TestAgreesWithPyTorch: what is inferred computes PyTorch's outputs to 1e-5, with
// the file's layers and after the conversion, also from a sorted file, which has
// lost the order of the layers.
func TestAgreesWithPyTorch(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mapping, member, activation string
		hidden                      []int
	}{
		"separate":   {"", "", "relu", []int{13, 12}},
		"towers":     {"", "", "relu", []int{9, 8, 10, 10}},
		"sequential": {"", "", "relu", []int{8, 8}},
		"sb3_tanh":   {"", "", "tanh", []int{16, 14}},
		"sb3_relu":   {"activation: relu", "", "relu", []int{14, 13}},
		"temporal":   {"temporal: {bars: 7, stride: 2}", "", "relu", []int{8}},
		"ensemble":   {"", "state_dict.members.1", "relu", []int{12}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, err := ParseMapping([]byte(cmp.Or(c.mapping, "{}")))
			if err != nil {
				t.Fatal(err)
			}
			tensors, want := fixture(t, name)
			for _, order := range []string{"as written", "sorted"} {
				tensors := slices.Clone(tensors)
				if order == "sorted" {
					slices.SortFunc(tensors, func(a, b safetensors.Tensor) int { return strings.Compare(a.Name, b.Name) })
				}
				if c.member != "" {
					if tensors, err = member(tensors, c.member, m); err != nil {
						t.Fatal(err)
					}
				}
				a, err := Infer(tensors, m)
				if err != nil {
					t.Fatalf("%s: %v", order, err)
				}
				if !slices.Equal(a.Hidden, c.hidden) || a.Inputs != 6 || a.Actions != 3 || a.Activation != c.activation {
					t.Fatalf("%s: %v", order, a)
				}
				out, err := a.Convert()
				if err != nil {
					t.Fatal(err)
				}
				for r, row := range want.X[0] {
					var x, past []float32
					if err := json.Unmarshal(row, &x); err != nil {
						t.Fatal(err)
					}
					if len(want.X) > 1 {
						var bars [][]float32
						if err := json.Unmarshal(want.X[1][r], &bars); err != nil {
							t.Fatal(err)
						}
						past = slices.Concat(bars...)
					}
					check := func(what string, logits []float64, value float64) {
						for j, v := range want.Logits[r] {
							if math.Abs(logits[j]-v) > 1e-5 {
								t.Errorf("%s, %s: logit %d of row %d is %v, PyTorch has %v", order, what, j, r, logits[j], v)
							}
						}
						if want.Value != nil && math.Abs(value-want.Value[r]) > 1e-5 {
							t.Errorf("%s, %s: value of row %d is %v, PyTorch has %v", order, what, r, value, want.Value[r])
						}
					}
					logits, value := a.Outputs(x, past)
					check("the file's layers", logits, value)
					logits, value = converted(t, a, out, x, past)
					check("converted", logits, value)
				}
			}
		})
	}
}

// TestWhatTheLearnerDoesNotHave is refused with what to do about it.
func TestWhatTheLearnerDoesNotHave(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][]string{
		"batchnorm": {`"1" is a batch normalisation`, "fuse_linear_bn_eval"},
		"layernorm": {`"1" is a layer normalisation`, "--as-is"},
		"gru":       {`"gru" is a GRU`, "command runtime"},
		"temporal":  {`"conv" is a convolution`, "temporal: {bars: N, stride: N}"},
	} {
		tensors, _ := fixture(t, name)
		_, err := Infer(tensors, nil)
		for _, part := range want {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v, want %q", name, err, part)
			}
		}
		if r := Check(filepath.Join("testdata", name+".pth"), Options{}); !r.OK() || r.Architecture != nil || !strings.Contains(r.Unclear, want[0]) {
			t.Errorf("%s: %+v", name, r)
		}
	}
}

// TestAnEnsembleNamesItsMembers, and one of them is imported.
func TestAnEnsembleNamesItsMembers(t *testing.T) {
	t.Parallel()
	path := filepath.Join("testdata", "ensemble.pth")
	r := Check(path, Options{})
	if len(r.Members) != 3 || r.Members[2].Name != "state_dict.members.2" || r.Members[1].Architecture.Hidden[0] != 12 {
		t.Fatalf("%+v", r.Members)
	}
	for member, want := range map[string]string{"": "say which one with --member", "members.7": `no member "members.7"`} {
		if _, err := Prepare(path, ImportOptions{Member: member}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "ensemble of 3") {
			t.Errorf("%q: %v", member, err)
		}
	}
	p, err := Prepare(path, ImportOptions{Member: "state_dict.members.2"})
	if err != nil || p.Network.Hidden[0] != 8 || p.Provenance["member"] != "state_dict.members.2" {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err := Prepare(filepath.Join("testdata", "separate.pth"), ImportOptions{Member: "x.0"}); err == nil || !strings.Contains(err.Error(), "not an ensemble") {
		t.Errorf("%v", err)
	}
}

// TestAStableBaselines3Archive is read through to its weights; one that is damaged
// says what to do.
func TestAStableBaselines3Archive(t *testing.T) {
	t.Parallel()
	weights, err := os.ReadFile(filepath.Join("testdata", "sb3_tanh.pth"))
	if err != nil {
		t.Fatal(err)
	}
	archive := func(method uint16) []byte {
		var b bytes.Buffer
		z := zip.NewWriter(&b)
		for name, content := range map[string][]byte{"data": []byte("{}"), "policy.pth": weights, "_stable_baselines3_version": []byte("2.9.2")} {
			w, err := z.CreateHeader(&zip.FileHeader{Name: name, Method: method})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(content); err != nil {
				t.Fatal(err)
			}
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	whole := archive(zip.Store)
	if r := Check(write(t, "model.zip", whole), Options{}); !r.OK() || r.Architecture == nil || r.Architecture.Hidden[0] != 16 {
		t.Errorf("%+v", r)
	}
	bad := slices.Clone(whole)
	bad[bytes.Index(whole, weights)+len(weights)/2] ^= 1
	for want, b := range map[string][]byte{"compressed or damaged": archive(zip.Deflate), "does not have its checksum": bad} {
		if r := Check(write(t, "model.zip", b), Options{}); r.OK() || !strings.Contains(r.Error, want) {
			t.Errorf("%q: %+v", want, r)
		}
	}
}

// TestTowersThatCannotStandSideBySide say why.
func TestTowersThatCannotStandSideBySide(t *testing.T) {
	t.Parallel()
	uneven := []safetensors.Tensor{matrix("actor.0.weight", 8, 6), matrix("actor.1.weight", 3, 8), matrix("critic.0.weight", 8, 6), matrix("critic.1.weight", 8, 8), matrix("critic.2.weight", 1, 8)}
	for want, c := range map[string]struct {
		tensors []safetensors.Tensor
		mapping Mapping
	}{
		"only under relu":           {uneven, Mapping{Activation: "tanh"}},
		"carry the observation":     {[]safetensors.Tensor{matrix("actor.weight", 3, 6), matrix("critic.0.weight", 8, 6), matrix("critic.1.weight", 1, 8)}, Mapping{}},
		"the learner has at most":   {[]safetensors.Tensor{matrix("actor.0.weight", 4000, 1), matrix("actor.1.weight", 3, 4000), matrix("critic.0.weight", 97, 1), matrix("critic.1.weight", 1, 97)}, Mapping{}},
		"no layer is the history":   {uneven, Mapping{Temporal: &Temporal{Bars: 4, Stride: 1}}},
		"no layer is the value":     {uneven[:2], Mapping{Layers: map[string]string{"actor.0": "critic.0", "actor.1": "policy"}}},
		"a history has 3":           {uneven[:2], Mapping{Layers: map[string]string{"actor.0": "history", "actor.1": "policy"}}},
		"continuous actions":        {append(slices.Clone(uneven), vector("log_std", 3)), Mapping{}},
		"parametrisation":           {append(slices.Clone(uneven), vector("fc.weight_g", 3)), Mapping{}},
		"more than the learner has": {slices.Repeat([]safetensors.Tensor{matrix("a.weight", 1, 1)}, mostLayers+1), Mapping{}},
	} {
		if a, err := Infer(c.tensors, &c.mapping); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v", want, a, err)
		}
	}
	for text, want := range map[string]string{
		"activation: gelu":                 "neither relu nor tanh",
		"temporal: {bars: 0, stride: 1}":   "both are at least 1",
		"layers: {a: actor.x, b: tower.1}": "none of trunk.N, actor.N",
	} {
		if _, err := ParseMapping([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
