package onnx

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// python returns an interpreter that has onnxruntime, the checker of this package.
func python(t *testing.T) string {
	t.Helper()
	candidates := []string{os.Getenv("TRAINYARD_TEST_PYTHON"), filepath.Join("..", "..", "..", "..", ".cache", "torch", "bin", "python"), "python3"}
	for _, p := range candidates {
		if p != "" && exec.Command(p, "-c", "import onnxruntime, numpy").Run() == nil { //nolint:gosec // the test's own interpreter
			return p
		}
	}
	t.Skip("SKIPPED: no Python with onnxruntime and numpy; name one by TRAINYARD_TEST_PYTHON")
	return ""
}

// network reads a fixture of weights with the outputs that PyTorch computed.
func network(t *testing.T, path string) (Network, map[string][]float32, map[string][]int) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := pth.Read(data, pth.Options{})
	if err != nil {
		t.Fatal(err)
	}
	n := Network{Observation: 64, Metadata: map[string]string{"feature_schema": "s/1"}}
	values, shapes := map[string][]float32{}, map[string][]int{}
	for _, x := range file.Tensors {
		if name, ok := strings.CutPrefix(x.Name, "weights."); ok {
			n.Tensors = append(n.Tensors, safetensors.Tensor{Name: name, DType: x.DType, Shape: x.Shape, Data: x.Data})
			continue
		}
		v, err := x.Float32s()
		if err != nil {
			t.Fatal(err)
		}
		values[x.Name], shapes[x.Name] = v, x.Shape
	}
	return n, values, shapes
}

const script = `
import json, sys
import numpy as np, onnxruntime
spec = json.load(open(sys.argv[2]))
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
feeds = {k: np.array(v["data"], dtype=np.float32).reshape(v["shape"]) for k, v in spec.items()}
logits, value = session.run(["logits", "value"], feeds)
props = session.get_modelmeta().custom_metadata_map
print(json.dumps({"logits": logits.ravel().tolist(), "value": value.ravel().tolist(), "schema": props["feature_schema"]}))
`

// TestONNXRuntimeComputesTheSame as PyTorch did, to 1e-5, dense and temporal.
func TestONNXRuntimeComputesTheSame(t *testing.T) {
	t.Parallel()
	interpreter := python(t)
	root := filepath.Join("..", "..", "..", "..")
	for name, c := range map[string]struct {
		path         string
		bars, stride int
	}{
		"dense":    {filepath.Join(root, "libs", "pth", "testdata", "specialist.pth"), 0, 0},
		"temporal": {filepath.Join("..", "learner", "testdata", "temporal.pth"), 14, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, values, shapes := network(t, c.path)
			n.Bars, n.Stride = c.bars, c.stride
			model, err := Encode(n)
			if err != nil {
				t.Fatal(err)
			}
			type array struct {
				Data  []float32 `json:"data"`
				Shape []int     `json:"shape"`
			}
			feeds := map[string]array{"observation": {values["x"], shapes["x"]}}
			if c.bars > 0 {
				feeds["history"] = array{values["past"], shapes["past"]}
			}
			text, err := json.Marshal(feeds)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			for file, data := range map[string][]byte{"m.onnx": model, "in.json": text, "run.py": []byte(script)} {
				if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			out, err := exec.Command(interpreter, filepath.Join(dir, "run.py"), filepath.Join(dir, "m.onnx"), filepath.Join(dir, "in.json")).CombinedOutput() //nolint:gosec // the test's own script
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var got struct {
				Logits, Value []float32
				Schema        string
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &got); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			near := func(what string, got, want []float32) {
				if len(got) != len(want) {
					t.Fatalf("%s: %d values, want %d", what, len(got), len(want))
				}
				for i := range want {
					if math.Abs(float64(got[i]-want[i])) > 1e-5 {
						t.Fatalf("%s %d is %v, PyTorch has %v", what, i, got[i], want[i])
					}
				}
			}
			near("logit", got.Logits, values["logits"])
			near("value", got.Value, values["value"])
			if got.Schema != "s/1" {
				t.Errorf("the schema is %q", got.Schema)
			}
		})
	}
}

// TestTheModelIsAProtobuf walks the outer message without a Python at hand.
func TestTheModelIsAProtobuf(t *testing.T) {
	t.Parallel()
	n, _, _ := network(t, filepath.Join("..", "learner", "testdata", "temporal.pth"))
	n.Bars, n.Stride = 14, 3
	b, err := Encode(n)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[protowire.Number]int{}
	for len(b) > 0 {
		field, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Fatal(protowire.ParseError(size))
		}
		seen[field]++
		value := protowire.ConsumeFieldValue(field, kind, b[size:])
		if value < 0 {
			t.Fatal(protowire.ParseError(value))
		}
		b = b[size+value:]
	}
	if seen[1] != 1 || seen[7] != 1 || seen[8] != 1 || seen[14] != 1 {
		t.Errorf("fields %v", seen)
	}
}

func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	n, _, _ := network(t, filepath.Join("..", "learner", "testdata", "temporal.pth"))
	n.Bars = 14
	n.Tensors = n.Tensors[1:]
	if _, err := Encode(n); err == nil || !strings.Contains(err.Error(), "history.weight") {
		t.Errorf("%v", err)
	}
	n.Bars, n.Tensors = 0, n.Tensors[:3]
	if _, err := Encode(n); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("%v", err)
	}
	n.Tensors[0].DType = "F16"
	if _, err := Encode(n); err == nil || !strings.Contains(err.Error(), "F16") {
		t.Errorf("%v", err)
	}
}
