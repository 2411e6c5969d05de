// Package safetensors writes and reads the safetensors format. A file that is read
// may be hostile: every size is checked before it is used, and holes, overlaps and
// duplicate names are refused.
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Tensor is one named array. Data is little-endian, row-major.
type Tensor struct {
	Name  string
	DType string // safetensors' name, such as "F32"
	Shape []int
	Data  []byte
}

// dtypeBytes has the element sizes of the format's types.
var dtypeBytes = map[string]int{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2,
	"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8,
}

// Float32 makes an F32 tensor. The values are copied.
func Float32(name string, values []float32, shape ...int) Tensor {
	data := make([]byte, 4*len(values))
	for i, v := range values {
		binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(v))
	}
	return Tensor{Name: name, DType: "F32", Shape: shape, Data: data}
}

// Float32s returns the values of an F32 tensor.
func (t *Tensor) Float32s() ([]float32, error) {
	if t.DType != "F32" {
		return nil, fmt.Errorf("tensor %q is %s, not F32", t.Name, t.DType)
	}
	out := make([]float32, len(t.Data)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(t.Data[4*i:]))
	}
	return out, nil
}

// elements returns the number of elements of a shape, false on overflow.
func elements(shape []int) (int, bool) {
	n := 1
	for _, d := range shape {
		if d < 0 || d > 0 && n > math.MaxInt/16/d {
			return 0, false
		}
		n *= d
	}
	return n, true
}

// maxHeader is the format's own limit.
const maxHeader = 100 << 20

type entry struct {
	DType   string `json:"dtype"`
	Shape   []int  `json:"shape"`
	Offsets [2]int `json:"data_offsets"`
}

// Encode writes the tensors in the order of their names. The same
// tensors always give the same bytes: files are stored by their digest.
func Encode(tensors []Tensor, metadata map[string]string) ([]byte, error) {
	sorted := slices.Clone(tensors)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Name < sorted[j].Name })
	header := make(map[string]any, len(sorted)+1)
	if len(metadata) > 0 {
		header["__metadata__"] = metadata
	}
	at := 0
	for _, t := range sorted {
		if _, twice := header[t.Name]; twice || t.Name == "__metadata__" || t.Name == "" {
			return nil, fmt.Errorf("safetensors: name %q is reserved or used twice", t.Name)
		}
		n, ok := elements(t.Shape)
		size := dtypeBytes[t.DType]
		if !ok || size == 0 || n*size != len(t.Data) {
			return nil, fmt.Errorf("safetensors: tensor %q: %d bytes do not hold %s%v", t.Name, len(t.Data), t.DType, t.Shape)
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		header[t.Name] = entry{t.DType, shape, [2]int{at, at + len(t.Data)}}
		at += len(t.Data)
	}
	text, err := json.Marshal(header) // map keys come out sorted
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	for (8+len(text))%64 != 0 {
		text = append(text, ' ')
	}
	out := make([]byte, 8, 8+len(text)+at)
	binary.LittleEndian.PutUint64(out, uint64(len(text)))
	out = append(out, text...)
	for _, t := range sorted {
		out = append(out, t.Data...)
	}
	return out, nil
}

// Decode reads a file that may be hostile: every size is checked
// before it is used. Tensors come back in the order of their data and alias b.
func Decode(b []byte) ([]Tensor, map[string]string, error) {
	fail := func(format string, args ...any) ([]Tensor, map[string]string, error) {
		return nil, nil, fmt.Errorf("safetensors: "+format, args...)
	}
	if len(b) < 8 {
		return fail("%d bytes are too few for a header", len(b))
	}
	n := binary.LittleEndian.Uint64(b)
	if n > maxHeader || n > uint64(len(b)-8) {
		return fail("a header of %d bytes does not fit into a file of %d", n, len(b))
	}
	text, data := b[8:8+n], b[8+n:]
	if len(text) == 0 || text[0] != '{' {
		return fail("the header does not start with {")
	}
	fields, err := objectFields(text)
	if err != nil {
		return fail("%v", err)
	}
	var metadata map[string]string
	var out []Tensor
	var starts []int
	for _, f := range fields {
		if f.name == "__metadata__" {
			if err := json.Unmarshal(f.value, &metadata); err != nil {
				return fail("metadata: %v", err)
			}
			continue
		}
		var e entry
		d := json.NewDecoder(bytes.NewReader(f.value))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			return fail("tensor %q: %v", f.name, err)
		}
		size, ok := dtypeBytes[e.DType]
		if !ok {
			return fail("tensor %q: unknown dtype %q", f.name, e.DType)
		}
		count, ok := elements(e.Shape)
		from, to := e.Offsets[0], e.Offsets[1]
		if !ok || from < 0 || to < from || to > len(data) || to-from != count*size {
			return fail("tensor %q: %s%v does not fit data_offsets %v in %d bytes", f.name, e.DType, e.Shape, e.Offsets, len(data))
		}
		out = append(out, Tensor{Name: f.name, DType: e.DType, Shape: e.Shape, Data: data[from:to:to]})
		starts = append(starts, from)
	}
	sort.Sort(&byStart{out, starts})
	at := 0
	for i := range out {
		if starts[i] != at {
			return fail("tensor %q starts at %d, but the one before it ends at %d: holes and overlaps are refused", out[i].Name, starts[i], at)
		}
		at += len(out[i].Data)
	}
	if at != len(data) {
		return fail("%d bytes after the last tensor", len(data)-at)
	}
	return out, metadata, nil
}

type byStart struct {
	t []Tensor
	s []int
}

func (b *byStart) Len() int { return len(b.t) }
func (b *byStart) Less(i, j int) bool {
	if b.s[i] != b.s[j] {
		return b.s[i] < b.s[j]
	}
	return len(b.t[i].Data) < len(b.t[j].Data)
}
func (b *byStart) Swap(i, j int) {
	b.t[i], b.t[j] = b.t[j], b.t[i]
	b.s[i], b.s[j] = b.s[j], b.s[i]
}

type field struct {
	name  string
	value json.RawMessage
}

// objectFields reads an object's members in order and refuses duplicate names,
// which encoding/json would silently merge.
func objectFields(text []byte) ([]field, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("the header is not an object")
	}
	seen := map[string]bool{}
	var out []field
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok || seen[name] {
			return nil, fmt.Errorf("the name %q appears twice", name)
		}
		seen[name] = true
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, err
		}
		out = append(out, field{name, v})
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if len(bytes.Trim(text[d.InputOffset():], " \t\r\n")) > 0 {
		return nil, errors.New("text after the header's object")
	}
	return out, nil
}
