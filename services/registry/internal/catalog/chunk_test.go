package catalog

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestCutNamesEverythingThatIsWrong(t *testing.T) {
	t.Parallel()
	file := File{Name: "model.safetensors", SHA256: "whole", Size: 10}
	for name, c := range map[string]struct {
		chunks []File
		want   []string
	}{
		"none":             {nil, nil},
		"one, the file":    {[]File{{SHA256: "whole", Size: 10}}, nil},
		"two":              {[]File{{SHA256: "a", Size: 4}, {SHA256: "b", Size: 6}}, nil},
		"one, other bytes": {[]File{{SHA256: "a", Size: 10}}, []string{"chunks[0].sha256"}},
		"too little":       {[]File{{SHA256: "a", Size: 4}, {SHA256: "b", Size: 5}}, []string{"chunks"}},
		"too much":         {[]File{{SHA256: "a", Size: 4}, {SHA256: "b", Size: 7}}, []string{"chunks"}},
		"empty ones":       {[]File{{SHA256: "a", Size: 0}, {SHA256: "b", Size: -1}, {SHA256: "c", Size: 9}}, []string{"chunks[0].size_bytes", "chunks[1].size_bytes", "chunks"}},
		"overflow":         {[]File{{SHA256: "a", Size: 1 << 62}, {SHA256: "b", Size: 1 << 62}}, []string{"chunks"}},
	} {
		got, problems := Cut(file, c.chunks)
		var fields []string
		for _, p := range problems {
			fields = append(fields, p.Field)
		}
		if fmt.Sprint(fields) != fmt.Sprint(c.want) {
			t.Errorf("%s: %v, want %v", name, problems, c.want)
		}
		if len(problems) == 0 && (len(got.Chunks) == 1 || len(got.Contents()) != max(1, len(c.chunks)) || got.Contents()[0].Name != file.Name) {
			t.Errorf("%s: cut into %+v", name, got)
		}
	}
}

// Whatever the files are cut into: what they are stored as has their bytes, once each in Distinct, and equals itself in any order.
func TestContentsAddUp(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var files []File
		for i := range rapid.IntRange(1, 4).Draw(t, "files") {
			f := File{Name: fmt.Sprint("f", i), SHA256: fmt.Sprint("whole", i)}
			sizes := rapid.SliceOfN(rapid.Int64Range(1, 9), 0, 5).Draw(t, "chunks")
			for _, n := range sizes {
				f.Size += n
				f.Chunks = append(f.Chunks, File{Name: f.Name, SHA256: fmt.Sprint("content", n), Size: n})
			}
			files = append(files, f)
		}
		var whole, parts int64
		for _, f := range files {
			whole += f.Size
		}
		count := map[string]int{}
		for _, c := range Contents(files) {
			parts += c.Size
			count[c.SHA256]++
		}
		if whole != parts || len(Distinct(files)) != len(count) {
			t.Fatalf("%d bytes in files, %d in contents; %d distinct of %d", whole, parts, len(Distinct(files)), len(count))
		}
		reversed := make([]File, len(files))
		for i, f := range files {
			reversed[len(files)-1-i] = f
		}
		if !SameContents(files, reversed) || SameContents(files, files[1:]) {
			t.Fatal("the order of files must not matter, their number must")
		}
	})
}
