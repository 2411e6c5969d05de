// Package pth reads PyTorch's .pth and .pt files without running anything that
// is in them. It interprets the pickle inside by an allow-list of globals: a
// name outside it is an error (strict) or an opaque, listed object (lenient). No
// length is believed before it is compared with the bytes that are there, and
// opcodes, depth and elements are bounded.
//
// It reads the zip format of torch 1.6 and later, and the legacy stream before
// it. Bytes in, tensors out: no I/O.
package pth

import (
	"fmt"
	"strconv"
	"strings"
)

// Tensor is one array, made contiguous. Data is little-endian, row-major.
type Tensor struct {
	// Name is the path in the file's nested dictionaries, joined by dots.
	Name  string
	DType string // F64 F32 F16 BF16 F8_E4M3 F8_E5M2 I64 I32 I16 I8 U64 U32 U16 U8 BOOL
	Shape []int
	Data  []byte
}

// Scalar is a value of the file that is not a tensor.
type Scalar struct {
	Name string
	// Value is nil, a bool, an int64, a float64, a string or a []byte; an integer
	// beyond int64 is its decimal text.
	Value any
}

// File is what was read.
type File struct {
	// Format is "zip" or "legacy".
	Format  string
	Tensors []Tensor
	Scalars []Scalar
	// Refused names what a lenient read left out and why, without repeats.
	Refused []string
}

// Options of a read.
type Options struct {
	// Lenient keeps what is known of a file that also has unknown objects.
	Lenient bool
	// Limit bounds the bytes of all tensors and names of the result; 0 means 64 MiB
	// and four times the file. A small file may name the same storage many times.
	Limit int64
	// Share lets contiguous tensors alias the file's bytes: nothing is copied, and
	// the caller keeps the bytes as they are.
	Share bool
}

const (
	maxOpcodes  = 10_000_000
	maxElements = 4_000_000 // of the flattened result
	maxDepth    = 64
	maxDims     = 64
	maxName     = 1024
	maxWork     = 100_000_000 // items and bytes that calls may copy
	// The interpreter's own values: a byte of a pickle can make a list of forty.
	maxValueBytes = 64 << 20 // and four times the file
	valueBytes    = 32       // of one value on the stack, about
)

// Read reads a whole file.
func Read(b []byte, o Options) (*File, error) {
	if o.Limit == 0 {
		o.Limit = 64<<20 + 4*int64(len(b))
	}
	r := &reader{options: o, refused: map[string]bool{}, values: maxValueBytes + 4*int64(len(b))}
	var root any
	var err error
	format := "legacy"
	switch {
	case len(b) == 0:
		return nil, fmt.Errorf("pth: the file is empty")
	case strings.HasPrefix(string(b[:min(4, len(b))]), "PK\x03\x04"):
		format = "zip"
		root, err = r.zip(b)
	default:
		root, err = r.legacy(b)
	}
	if err != nil {
		return nil, fmt.Errorf("pth: %w", err)
	}
	f := &File{Format: format}
	w := walker{reader: r, file: f, left: maxElements}
	if err := w.walk("", root, 0); err != nil {
		return nil, fmt.Errorf("pth: %w", err)
	}
	f.Refused = r.notes
	return f, nil
}

// reader holds what one file's interpretation shares.
type reader struct {
	options  Options
	storages map[string]*storage
	refused  map[string]bool
	notes    []string
	work     int
	values   int64 // bytes that the interpreter may still take for its values
}

// spend bounds what calls copy: a memo can pass one long value to a million calls.
func (r *reader) spend(n int) error {
	if r.work += n; r.work > maxWork {
		return fmt.Errorf("its calls copy more than %d items", maxWork)
	}
	return nil
}

// storage is the flat memory that tensors view.
type storage struct {
	dtype string
	count int64
	data  []byte // nil in a legacy file until its end; aliases the file
}

// refuse is an error in strict mode and a note in lenient mode.
func (r *reader) refuse(what string) error {
	if !r.options.Lenient {
		return fmt.Errorf("%s is not allowed", what)
	}
	if !r.refused[what] && len(r.notes) < 1000 {
		r.refused[what] = true
		r.notes = append(r.notes, what)
	}
	return nil
}

// walker flattens the result.
type walker struct {
	reader *reader
	file   *File
	left   int
	bytes  int64
}

func (w *walker) walk(name string, v any, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%.80q is nested deeper than %d levels", name, maxDepth)
	}
	if w.left--; w.left < 0 {
		return fmt.Errorf("more than %d values", maxElements)
	}
	if len(name) > maxName {
		return fmt.Errorf("a name longer than %d bytes: %.80q", maxName, name)
	}
	join := func(key string) string {
		if name == "" {
			return key
		}
		return name + "." + key
	}
	switch v := v.(type) {
	case *tensorValue:
		t, err := w.tensor(name, v)
		if err != nil {
			return err
		}
		w.file.Tensors = append(w.file.Tensors, t)
	case *dict:
		for i, k := range v.keys {
			if err := w.walk(join(keyText(k)), v.values[i], depth+1); err != nil {
				return err
			}
		}
	case *list:
		for i, x := range v.items {
			if err := w.walk(join(strconv.Itoa(i)), x, depth+1); err != nil {
				return err
			}
		}
	case tuple:
		for i, x := range v {
			if err := w.walk(join(strconv.Itoa(i)), x, depth+1); err != nil {
				return err
			}
		}
	case opaque:
		return nil
	case global:
		return w.scalar(name, v.String())
	case nil, bool, int64, float64, string, []byte:
		return w.scalar(name, v)
	case *storage:
		return w.reader.refuse(fmt.Sprintf("a bare storage at %.80q", name))
	default:
		return w.reader.refuse(fmt.Sprintf("a value of type %T at %.80q", v, name))
	}
	return nil
}

// scalar keeps a value. Names repeat the path above them, so that they count too.
func (w *walker) scalar(name string, v any) error {
	if err := w.spend(int64(len(name)) + valueBytes); err != nil {
		return err
	}
	w.file.Scalars = append(w.file.Scalars, Scalar{name, v})
	return nil
}

// spend bounds what the result holds.
func (w *walker) spend(n int64) error {
	if w.bytes += n; w.bytes > w.reader.options.Limit {
		return fmt.Errorf("its values need more than %d bytes", w.reader.options.Limit)
	}
	return nil
}

// tensor checks the view against its storage and makes it contiguous.
func (w *walker) tensor(name string, v *tensorValue) (Tensor, error) {
	size := int64(sizes[v.dtype])
	count, last := int64(1), int64(0)
	empty := false
	for i, d := range v.shape {
		if d == 0 {
			empty = true
			continue
		}
		if count > w.reader.options.Limit/d || v.stride[i] > int64(1)<<40 || d > int64(1)<<40 {
			return Tensor{}, fmt.Errorf("tensor %.80q: shape %v is larger than the limit", name, v.shape)
		}
		count *= d
		// Each term stays below 2^80 only by the limits above; compare as float
		// first, so that the integer sum cannot overflow.
		if float64(last)+float64(d-1)*float64(v.stride[i]) > 1<<60 {
			return Tensor{}, fmt.Errorf("tensor %.80q: strides %v reach too far", name, v.stride)
		}
		last += (d - 1) * v.stride[i]
	}
	if empty {
		count = 0
	}
	if err := w.spend(count*size + int64(len(name)) + valueBytes); err != nil {
		return Tensor{}, err
	}
	have := int64(len(v.storage.data)) / size
	if !empty && (v.offset > have || last+1 > have-v.offset) {
		return Tensor{}, fmt.Errorf("tensor %.80q: shape %v with strides %v from %d does not fit a storage of %d elements",
			name, v.shape, v.stride, v.offset, have)
	}
	t := Tensor{Name: name, DType: v.dtype, Shape: make([]int, len(v.shape))}
	for i, d := range v.shape {
		t.Shape[i] = int(d)
	}
	if count == 0 {
		return t, nil
	}
	src := v.storage.data[v.offset*size:]
	if _, dims := contiguous(v.shape, v.stride); dims == 0 && w.reader.options.Share {
		t.Data = src[: count*size : count*size]
		return t, nil
	}
	t.Data = make([]byte, count*size)
	gather(t.Data, src, v.shape, v.stride, size)
	return t, nil
}

// contiguous returns how many elements the trailing dimensions hold in one piece,
// and how many dimensions are left before them.
func contiguous(shape, stride []int64) (run int64, dims int) {
	run, dims = 1, len(shape)
	for dims > 0 && (stride[dims-1] == run || shape[dims-1] == 1) {
		run *= shape[dims-1]
		dims--
	}
	return run, dims
}

// gather copies a strided view, piece by piece.
func gather(dst, src []byte, shape, stride []int64, size int64) {
	run, dims := contiguous(shape, stride)
	index := make([]int64, dims)
	at, from := int64(0), int64(0)
	for {
		copy(dst[at:at+run*size], src[from*size:])
		at += run * size
		i := dims - 1
		for ; i >= 0; i-- {
			index[i]++
			from += stride[i]
			if index[i] < shape[i] {
				break
			}
			from -= index[i] * stride[i]
			index[i] = 0
		}
		if i < 0 {
			return
		}
	}
}

// sizes has the bytes per element.
var sizes = map[string]int{"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
	"U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1}

func keyText(k any) string {
	switch k := k.(type) {
	case string:
		return k
	case int64:
		return strconv.FormatInt(k, 10)
	case bool:
		return strconv.FormatBool(k)
	default:
		return fmt.Sprintf("<%T>", k)
	}
}
