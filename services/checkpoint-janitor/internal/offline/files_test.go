package offline

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

func floats(n int, seed uint64) (out []byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	for range n {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(float32(r.NormFloat64()*0.05)))
	}
	return out
}

func write(t *testing.T, dir, name string, content []byte) string {
	t.Helper()
	full := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(full, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return full
}

func TestPackAndUnpack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	base := write(t, dir, "1.safetensors", floats(5000, 1))
	next := floats(5000, 1)
	next[1] ^= 1
	src := write(t, dir, "2.safetensors", next)
	packed, back := filepath.Join(dir, "2.tyar"), filepath.Join(dir, "back")
	var out bytes.Buffer
	if err := Pack([]string{"--base", base, "-o", packed, src}, &out); err != nil || !strings.Contains(out.String(), "read back and equal") {
		t.Fatalf("%v: %s", err, out.String())
	}
	if err := Unpack([]string{"--base", base, "-o", back, packed}, &out); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, next) {
		t.Fatalf("other bytes came back: %v", err)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"exists already": {"-o", back, packed}, "-o is missing": {packed}, "give one file": {"-o", filepath.Join(dir, "x")},
		"needs another base": {"-o", filepath.Join(dir, "x"), packed}, "not a readable archive": {"-o", filepath.Join(dir, "x"), base},
		"no such file": {"-o", filepath.Join(dir, "x"), filepath.Join(dir, "absent")},
	} {
		if err := Unpack(args, &out); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if after, err := os.ReadDir(dir); err != nil || len(after) != len(before) {
		t.Errorf("failures left %d files, there were %d: %v", len(after), len(before), err)
	}
}

func TestAdoptTakesStockOfAMess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write(t, dir, "bull/bull_epoch12_sharpe1.42.pth", []byte("one"))
	write(t, dir, "bull/bull_epoch13.pth", []byte("two"))
	write(t, dir, "bull/bull_epoch13.json", []byte(`{"val_sharpe": 0.5, "loss": 3}`))
	write(t, dir, "bull/bull_sharpe_nan.pth", []byte("three"))
	write(t, dir, "bear/final.PT", []byte("one")) // the same content once more
	write(t, dir, "bear/final.json", []byte(`{broken`))
	write(t, dir, "bear/notes.txt", []byte("mine"))
	outside := write(t, t.TempDir(), "outside.pth", []byte("not ours"))
	if err := os.Symlink(outside, filepath.Join(dir, "bear/link.pth")); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "inventory.jsonl")
	var log bytes.Buffer
	if err := Adopt(t.Context(), []string{"-o", list, dir}, &log, &log); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(list)
	if err != nil {
		t.Fatal(err)
	}
	v, err := inventory.ReadJSONL(f)
	if err != nil || f.Close() != nil {
		t.Fatal(err)
	}
	got := map[string]retention.Checkpoint{}
	for _, c := range v.Checkpoints {
		got[c.ID] = c
	}
	if len(got) != 4 || !strings.Contains(log.String(), "4 checkpoints") {
		t.Fatalf("got %d checkpoints: %s", len(got), log.String())
	}
	named, beside, nan, plain := got["bull/bull_epoch12_sharpe1.42.pth"], got["bull/bull_epoch13.pth"], got["bull/bull_sharpe_nan.pth"], got["bear/final.PT"]
	if named.Sharpe != retention.Measured(1.42) || named.Step != 12 || named.Experiment != "bull" {
		t.Errorf("got %+v", named)
	}
	if beside.Sharpe != retention.Measured(0.5) || !nan.Sharpe.Known || nan.Sharpe.Finite() || plain.Sharpe.Known {
		t.Errorf("figures: %+v %+v %+v", beside.Sharpe, nan.Sharpe, plain.Sharpe)
	}
	if plain.Files[0] != named.Files[0] {
		t.Errorf("equal contents have different digests: %+v %+v", plain.Files, named.Files)
	}
	var plan bytes.Buffer
	if err := Plan([]string{"--inventory", list, "--now", at}, nil, &plan); err != nil || !strings.Contains(plan.String(), "bull/bull_epoch12_sharpe1.42.pth") {
		t.Errorf("its plan: %v\n%s", err, plan.String())
	}
	if err := Adopt(t.Context(), []string{"-o", list, dir}, &log, &log); err == nil {
		t.Error("an inventory was overwritten")
	}
	if err := Adopt(t.Context(), nil, &log, &log); err == nil {
		t.Error("no directory is no mistake")
	}
}
