package cli

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

// TestImportCheckNeedsNoMesh: good and bad files in one call, for people and for
// programs; what was refused shows in the exit.
func TestImportCheckNeedsNoMesh(t *testing.T) {
	t.Parallel()
	f := &fakeMesh{state: t.TempDir()}
	dir := filepath.Join("..", "..", "..", "libs", "pth", "testdata")
	good, bad := filepath.Join(dir, "dtypes.legacy.p2.pth"), filepath.Join(dir, "hostile_system.zip.pth")
	out, err := f.run(t, "import", "--check", good)
	if err != nil || !strings.Contains(out, "legacy") || !strings.Contains(out, "bf16") {
		t.Fatalf("%s, %v", out, err)
	}
	out, err = f.run(t, "import", "--check", "-o", "json", good, bad)
	if !errors.Is(err, errRefused) {
		t.Errorf("%v", err)
	}
	var answer struct {
		Files []struct {
			File, Error string
			Tensors     []struct{ Name, DType, SHA256 string }
		}
		Read, Refused int
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Read != 1 || answer.Refused != 1 || len(answer.Files[0].Tensors) != 10 || !strings.Contains(answer.Files[1].Error, "posix.system") {
		t.Errorf("%+v", answer)
	}
	out, err = f.run(t, "import", "--check", "--lenient", bad)
	if !errors.Is(err, errRefused) || !strings.Contains(out, `refused: the global "posix.system"`) {
		t.Errorf("%s, %v", out, err)
	}
	var usage usageError
	if _, err := f.run(t, "import", good); !errors.As(err, &usage) {
		t.Errorf("%v", err)
	}
}
