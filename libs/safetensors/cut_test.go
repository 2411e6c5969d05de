package safetensors

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func cut(t interface{ Fatal(...any) }, b []byte, least int64, most int) [][]byte {
	lengths, err := Cut(bytes.NewReader(b), int64(len(b)), least, most)
	if err != nil {
		t.Fatal(err)
	}
	if lengths == nil {
		return [][]byte{b}
	}
	var out [][]byte
	for _, n := range lengths {
		if n <= 0 || n > int64(len(b)) {
			t.Fatal("a piece of", n, "bytes with", len(b), "left")
		}
		out, b = append(out, b[:n]), b[n:]
	}
	if len(b) > 0 {
		t.Fatal(len(b), "bytes are in no piece")
	}
	return out
}

// The pieces of a file are the file, in their order, and not more than were asked for.
func TestPiecesAreTheFile(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var tensors []Tensor
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 300), 0, 12).Draw(t, "sizes") {
			tensors = append(tensors, Tensor{Name: fmt.Sprint("t", i), DType: "U8", Shape: []int{n}, Data: bytes.Repeat([]byte{byte(i)}, n)})
		}
		b, err := Encode(tensors, nil)
		if err != nil {
			t.Fatal(err)
		}
		least, most := rapid.Int64Range(-1, 200).Draw(t, "least"), rapid.IntRange(-1, 9).Draw(t, "most")
		pieces := cut(t, b, least, most)
		if !bytes.Equal(bytes.Join(pieces, nil), b) || len(pieces) > max(most, 1) {
			t.Fatalf("%d pieces of at most %d", len(pieces), most)
		}
	})
}

// A tensor that is large enough has the same piece in every file that holds it, whatever else does.
func TestALargeTensorIsCutAlikeEverywhere(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		const least = 64
		trunk := Tensor{Name: "trunk.weight", DType: "U8", Shape: []int{200}, Data: rapid.SliceOfN(rapid.Byte(), 200, 200).Draw(t, "trunk")}
		for range 2 {
			tensors := []Tensor{trunk}
			for i, n := range rapid.SliceOfN(rapid.IntRange(0, 150), 0, 6).Draw(t, "others") {
				tensors = append(tensors, Tensor{Name: fmt.Sprint(rapid.SampledFrom([]string{"head", "value", "trunk.bias"}).Draw(t, "name"), i), DType: "U8", Shape: []int{n}, Data: make([]byte, n)})
			}
			b, err := Encode(tensors, map[string]string{"step": rapid.StringN(0, 90, 90).Draw(t, "metadata")})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(cut(t, b, least, 100), func(p []byte) bool { return sha256.Sum256(p) == sha256.Sum256(trunk.Data) }) {
				t.Fatal("the trunk is no piece of its own")
			}
		}
	})
}

// The specialists' network: two of its tensors are most of it.
func TestASpecialistIsCutIntoFive(t *testing.T) {
	t.Parallel()
	f := func(name string, shape ...int) Tensor {
		n, _ := elements(shape)
		return Float32(name, make([]float32, n), shape...)
	}
	b, err := Encode([]Tensor{f("features.mean", 64), f("features.scale", 64), f("policy.bias", 3), f("policy.weight", 3, 128), f("trunk.0.bias", 128),
		f("trunk.0.weight", 128, 64), f("trunk.1.bias", 128), f("trunk.1.weight", 128, 128), f("value.bias", 1), f("value.weight", 1, 128)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for _, p := range cut(t, b, 16<<10, 256) {
		sizes = append(sizes, len(p))
	}
	if len(sizes) != 5 || !slices.Contains(sizes, 32<<10) || !slices.Contains(sizes, 64<<10) {
		t.Errorf("cut into %v", sizes)
	}
}

func TestWhatIsNoSafetensorsIsNotCut(t *testing.T) {
	t.Parallel()
	good := `"a":{"dtype":"U8","shape":[90],"data_offsets":[0,90]}`
	for name, b := range map[string][]byte{
		"another format": bytes.Repeat([]byte("PK\x03\x04"), 50),
		"huge header":    append([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, make([]byte, 200)...),
		"hole":           file(`{`+good+`,"b":{"dtype":"U8","shape":[9],"data_offsets":[91,100]}}`, 100),
		"overlap":        file(`{`+good+`,"b":{"dtype":"U8","shape":[11],"data_offsets":[89,100]}}`, 100),
		"backwards":      file(`{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,-90]}}`, 90),
		"tail":           file(`{`+good+`}`, 91),
		"past the end":   file(`{`+good+`}`, 80),
		"twice":          file(`{`+good+`,`+good+`}`, 90),
		"no list":        file(`{"a":[]}`, 90),
	} {
		if pieces, err := Cut(bytes.NewReader(b), int64(len(b)), 16, 9); err == nil {
			t.Errorf("%s was cut into %v", name, pieces)
		}
	}
	if pieces, err := Cut(bytes.NewReader(nil), 20, 16, 9); err != nil || pieces != nil {
		t.Errorf("a small file: %v, %v", pieces, err)
	}
}

func FuzzCut(f *testing.F) {
	b, err := Encode([]Tensor{Float32("w", make([]float32, 50), 50), Float32("b", nil, 0)}, map[string]string{"format": "pt"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, int64(16), 4)
	f.Fuzz(func(t *testing.T, b []byte, least int64, most int) {
		pieces, err := Cut(bytes.NewReader(b), int64(len(b)), least%1000, most%100)
		if err != nil || pieces == nil {
			return
		}
		var sum int64
		for _, n := range pieces {
			sum += n
		}
		if sum != int64(len(b)) {
			t.Fatalf("pieces of %d bytes for %d", sum, len(b))
		}
	})
}
