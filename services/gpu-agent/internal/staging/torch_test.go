package staging_test

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// The pickle that torch.save writes for {"w": tensor of two floats}, protocol 2.
func statePickle(storageType string, numel byte) []byte {
	var b bytes.Buffer
	b.WriteString("\x80\x02}q\x00X\x01\x00\x00\x00wq\x01")
	b.WriteString("ctorch._utils\n_rebuild_tensor_v2\nq\x02(")
	b.WriteString("(X\x07\x00\x00\x00storageq\x03ctorch\n" + storageType + "\nq\x04X\x01\x00\x00\x000q\x05X\x03\x00\x00\x00cpuq\x06K" + string([]byte{numel}) + "tq\x07Q")
	b.WriteString("K\x00K\x02\x85q\x08K\x01\x85q\x09\x89ccollections\nOrderedDict\nq\x0a)Rq\x0btq\x0cRq\x0ds.")
	return b.Bytes()
}

type entry struct {
	name   string
	data   []byte
	method uint16
}

func torchZip(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, e := range entries {
		f, err := w.CreateHeader(&zip.FileHeader{Name: e.name, Method: e.method})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Write(e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Torch archives pass when they hold nothing but finite tensors. Everything that
// could run code, grow, or hide is refused.
func TestTorch(t *testing.T) {
	t.Parallel()
	pickle := func(p []byte) entry { return entry{"m/data.pkl", p, zip.Store} }
	weights := entry{"m/data/0", f32(1, 2), zip.Store}
	good := statePickle("FloatStorage", 2)
	flipped := torchZip(t, pickle(good), weights)
	flipped[bytes.Index(flipped, f32(1, 2))] ^= 1
	eval := []byte("\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.")
	for _, c := range []struct {
		name    string
		data    []byte
		problem string
	}{
		{"good", torchZip(t, pickle(good), entry{"m/byteorder", []byte("little"), zip.Store}, weights), ""},
		{"nan", torchZip(t, pickle(good), entry{"m/data/0", f32(1, float32(math.NaN())), zip.Store}), "element 1 is not finite"},
		{"code", torchZip(t, pickle(eval), weights), `"builtins.eval" is not allowed`},
		{"code by STACK_GLOBAL", torchZip(t, pickle([]byte("\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.")), weights), `"os.system" is not allowed`},
		{"code by INST", torchZip(t, pickle([]byte("(S'id'\nios\nsystem\n.")), weights), "an opcode that is not allowed"},
		{"code by extension", torchZip(t, pickle([]byte("\x80\x02\x82\x01)R.")), weights), "an opcode that is not allowed"},
		{"a name that hides a dot", torchZip(t, pickle([]byte("\x80\x04\x8c\x05torch\x8c\x0e_utils.os.exec\x93.")), weights), "is not allowed"},
		{"call of a memoized string", torchZip(t, pickle([]byte("\x80\x02X\x02\x00\x00\x00osq\x00)R.")), weights), "a string is called"},
		{"second program", torchZip(t, pickle(append(bytes.Clone(good), eval...)), weights), "follow the end of its pickle"},
		{"cut", torchZip(t, pickle(good[:20]), weights), "opcode"},
		{"no STOP", torchZip(t, pickle(good[:len(good)-1]), weights), "in the middle of an opcode"},
		{"missing storage", torchZip(t, pickle(good)), `the record "data/0" is missing`},
		{"short storage", torchZip(t, pickle(good), entry{"m/data/0", f32(1), zip.Store}), "2 elements of F32 need 8"},
		{"unknown storage", torchZip(t, pickle(statePickle("EvilStorage", 2)), weights), "is not allowed"},
		{"compressed", torchZip(t, pickle(good), entry{"m/data/0", make([]byte, 1000), zip.Deflate}), "is not stored plainly"},
		{"twice", torchZip(t, pickle(good), weights, weights), "appears twice"},
		{"path trick", torchZip(t, pickle(good), weights, entry{"m/../../etc/passwd", nil, zip.Store}), "leads elsewhere"},
		{"two roots", torchZip(t, pickle(good), entry{"n/data.pkl", good, zip.Store}), "more than one data.pkl"},
		{"code of TorchScript", torchZip(t, pickle(good), entry{"m/constants.pkl", good, zip.Store}, weights), "holds code"},
		{"no tensor", torchZip(t, pickle([]byte("\x80\x02}."))), "holds no tensor"},
		{"flipped bit", flipped, "checksum"},
		{"big endian", torchZip(t, pickle(good), entry{"m/byteorder", []byte("big"), zip.Store}, weights), "byte order"},
		{"half a legacy file", good, "neither a zip nor a legacy"},
		{"truncated", torchZip(t, pickle(good), weights)[:80], "not a sound zip"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got := strings.Join(staging.Validate("model.pth", content{bytes.NewReader(c.data)}), "; ")
			if (got == "") != (c.problem == "") || !strings.Contains(got, c.problem) {
				t.Fatalf("problems %q, want %q", got, c.problem)
			}
		})
	}
}

// Two entries that share their bytes are refused: that is how zip bombs are made.
func TestTorchOverlap(t *testing.T) {
	t.Parallel()
	data := torchZip(t, entry{"m/data.pkl", statePickle("FloatStorage", 2), zip.Store}, entry{"m/data/0", f32(1, 2), zip.Store}, entry{"m/data/1", f32(1, 2), zip.Store})
	// The last entry's local header offset in the central directory is set to its neighbour's.
	directory := bytes.LastIndex(data, []byte("PK\x01\x02"))
	neighbour := bytes.LastIndex(data[:directory], []byte("PK\x01\x02"))
	copy(data[directory+42:directory+46], data[neighbour+42:neighbour+46])
	if binary.LittleEndian.Uint32(data[directory+42:]) == 0 {
		t.Fatal("the archive is not what the test expects")
	}
	if got := strings.Join(staging.Validate("m.pt", content{bytes.NewReader(data)}), ""); !strings.Contains(got, "overlap") {
		t.Fatalf("problems %q", got)
	}
}

// No pickle, however broken, makes the scan panic or accept a foreign name.
func FuzzTorch(f *testing.F) {
	f.Add(statePickle("FloatStorage", 2))
	f.Add([]byte("\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R."))
	f.Fuzz(func(t *testing.T, pickle []byte) {
		data := torchZip(t, entry{"m/data.pkl", pickle, zip.Store}, entry{"m/data/0", f32(1, 2), zip.Store})
		staging.Validate("m.pth", content{bytes.NewReader(data)})
	})
}
