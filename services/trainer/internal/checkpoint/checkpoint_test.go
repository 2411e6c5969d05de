package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

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
