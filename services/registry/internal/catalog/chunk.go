package catalog

import "fmt"

// MaxContents bounds the contents of one checkpoint: each has an upload, a download and, archived,
// a packed copy, and an answer that lists them all must stay below the size of one message.
const MaxContents = 1000

// Contents are what the file is stored as: its chunks, or the file itself.
func (f File) Contents() []File {
	if len(f.Chunks) == 0 {
		return []File{f}
	}
	return f.Chunks
}

// Contents are those of all files, in their order. One that occurs twice is there twice.
func Contents(files []File) []File {
	var out []File
	for _, f := range files {
		out = append(out, f.Contents()...)
	}
	return out
}

// Distinct are the contents of all files, each once.
func Distinct(files []File) []File {
	var out []File
	seen := map[string]bool{}
	for _, c := range Contents(files) {
		if !seen[c.SHA256] {
			seen[c.SHA256] = true
			out = append(out, c)
		}
	}
	return out
}

// SameContents says whether two checkpoints' files are stored as the same contents.
func SameContents(a, b []File) bool {
	if len(a) != len(b) {
		return false
	}
	at := make(map[string][]File, len(a))
	for _, f := range a {
		at[f.Name] = f.Contents()
	}
	for _, f := range b {
		mine, theirs := at[f.Name], f.Contents()
		if len(mine) != len(theirs) {
			return false
		}
		for i := range mine {
			if mine[i].SHA256 != theirs[i].SHA256 {
				return false
			}
		}
	}
	return true
}

// Cut checks that the chunks make up the file, and gives the file them. One chunk is no cut: it
// has to be the file itself. The problems are all that is wrong, each with the field's path below
// the file's.
func Cut(f File, chunks []File) (File, []FieldProblem) {
	var (
		problems []FieldProblem
		total    int64
	)
	bad := func(field, format string, args ...any) {
		problems = append(problems, FieldProblem{field, fmt.Sprintf(format, args...)})
	}
	for i := range chunks {
		chunks[i].Name = f.Name
		if chunks[i].Size <= 0 {
			bad(fmt.Sprintf("chunks[%d].size_bytes", i), "is %d: a chunk has at least one byte", chunks[i].Size)
		}
		if total += chunks[i].Size; total < 0 { // of sizes that validation lets through it takes 1.6 million to get here
			bad("chunks", "are too large")
			return f, problems
		}
	}
	if len(chunks) > 0 && total != f.Size {
		bad("chunks", "have %d bytes together, the file has %d", total, f.Size)
	}
	if len(chunks) == 1 && chunks[0].SHA256 != f.SHA256 {
		bad("chunks[0].sha256", "is not the file's: one chunk is the whole file")
	}
	if len(chunks) > 1 {
		f.Chunks = chunks
	}
	return f, problems
}

// FieldProblem is one thing that is wrong in a request.
type FieldProblem struct{ Field, Text string }
