// Package modelfile says what is inside a model file that somebody else made, and
// turns it into a model that can be registered. Files are hostile until proven
// otherwise: nothing in them runs, and no length is believed.
package modelfile

import (
	"archive/zip"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
	"github.com/ultrathink-pilot/trainyard/libs/safetensors"
)

// Report is what is inside one file.
type Report struct {
	File string `json:"file"`
	// Format is "zip" or "legacy" (PyTorch) or "safetensors"; "" when it is none.
	Format  string   `json:"format,omitempty"`
	Size    int64    `json:"size_bytes"`
	Tensors []Tensor `json:"tensors"`
	// Values are the file's numbers and texts beside the tensors.
	Values []Value `json:"values,omitempty"`
	// Refused names what was left out, and why; Error is why nothing was read.
	Refused []string `json:"refused,omitempty"`
	Error   string   `json:"error,omitempty"`
	// Architecture is what the tensors' names and shapes say; nil when they say
	// nothing, and Unclear is why not. Members are the networks of an ensemble.
	Architecture *Architecture `json:"architecture,omitempty"`
	Unclear      string        `json:"unclear,omitempty"`
	Members      []Member      `json:"members,omitempty"`
}

// OK reports whether the whole file was read.
func (r *Report) OK() bool { return r.Error == "" && len(r.Refused) == 0 }

// Tensor describes one tensor.
type Tensor struct {
	Name  string `json:"name"`
	DType string `json:"dtype"`
	Shape []int  `json:"shape"`
	Bytes int64  `json:"bytes"`
	// SHA256 is of the values, little-endian, row-major and contiguous.
	SHA256 string `json:"sha256"`
	// NotFinite counts the values that are NaN or infinite.
	NotFinite int `json:"not_finite,omitempty"`
}

// Value is a number or a text of the file. Bytes are shown by their length; a
// number that JSON does not have is its name.
type Value struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

// Options of a check.
type Options struct {
	// Lenient reads the tensors of a file that also has unknown objects.
	Lenient bool
}

// Check reads the file and describes it. It never fails: what is wrong is in the
// report.
func Check(path string, o Options) *Report {
	r := &Report{File: path, Tensors: []Tensor{}}
	err := open(path, func(b []byte) error {
		r.Size = int64(len(b))
		return r.read(b, o)
	})
	if err != nil {
		r.Error = err.Error()
		r.Tensors = []Tensor{}
	}
	return r
}

// open maps the file for the call of use: its bytes are not copied, so that a
// file larger than the memory can be read.
func open(path string, use func(b []byte) error) (err error) {
	// Not only os.Open: a pipe would wait for its writer.
	info, err := os.Stat(path)
	if err != nil {
		return plain(err)
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return plain(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if info.Size() == 0 {
		return errors.New("the file is empty")
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return fmt.Errorf("it cannot be mapped: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(b)) }()
	// A file that is cut while it is mapped faults on its lost pages.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			err = errors.New("the file changed while it was read")
		default:
			panic(p)
		}
	}()
	return use(b)
}

// plain takes the path out of an error: the report names the file.
func plain(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// read fills the report.
func (r *Report) read(b []byte, o Options) error {
	m, err := parse(filepath.Base(r.File), b, o)
	if err != nil {
		return err
	}
	r.Format, r.Refused = m.format, m.refused
	for i := range m.tensors {
		t := &m.tensors[i]
		sum := sha256.Sum256(t.Data)
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		r.Tensors = append(r.Tensors, Tensor{Name: t.Name, DType: t.DType, Shape: shape, Bytes: int64(len(t.Data)),
			SHA256: hex.EncodeToString(sum[:]), NotFinite: notFinite(t.DType, t.Data)})
	}
	for _, s := range m.values {
		r.Values = append(r.Values, Value{s.Name, shown(s.Value)})
	}
	if r.Members = Members(m.tensors, nil); r.Members == nil {
		if r.Architecture, err = Infer(m.tensors, nil); err != nil {
			r.Architecture, r.Unclear = nil, err.Error()
		}
	}
	return nil
}

// model is a parsed file. Its tensors alias the file's bytes.
type model struct {
	format  string
	tensors []safetensors.Tensor
	values  []pth.Scalar
	refused []string
}

func parse(name string, b []byte, o Options) (*model, error) {
	if isSafetensors(name, b) {
		tensors, metadata, err := safetensors.Decode(b)
		if err != nil {
			return nil, err
		}
		m := &model{format: "safetensors", tensors: tensors}
		for _, k := range slices.Sorted(maps.Keys(metadata)) {
			m.values = append(m.values, pth.Scalar{Name: "__metadata__." + k, Value: metadata[k]})
		}
		return m, nil
	}
	inner, err := policyOf(b)
	if err != nil {
		return nil, err
	}
	f, err := pth.Read(inner, pth.Options{Lenient: o.Lenient, Share: true})
	if err != nil {
		return nil, err
	}
	m := &model{format: f.Format, values: f.Scalars, refused: f.Refused}
	for _, t := range f.Tensors {
		m.tensors = append(m.tensors, safetensors.Tensor{Name: t.Name, DType: t.DType, Shape: t.Shape, Data: t.Data})
	}
	return m, nil
}

// policyOf returns the weights within what Stable-Baselines3's save wrote, a zip
// around policy.pth; any other file is returned as it is.
func policyOf(b []byte) ([]byte, error) {
	const name = "policy.pth"
	if !bytes.HasPrefix(b, []byte("PK")) || !bytes.Contains(b, []byte(name)) {
		return b, nil
	}
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return b, nil //nolint:nilerr // the reader of PyTorch's zips says what is wrong
	}
	for _, f := range z.File {
		if f.Name != name {
			continue
		}
		at, err := f.DataOffset()
		size := f.UncompressedSize64
		if err != nil || f.Method != zip.Store || at > int64(len(b)) || size > uint64(int64(len(b))-at) {
			return nil, fmt.Errorf("a Stable-Baselines3 archive whose %s is compressed or damaged: unpack it and import %s", name, name)
		}
		inner := b[at : at+int64(size)]
		if crc32.ChecksumIEEE(inner) != f.CRC32 {
			return nil, fmt.Errorf("a Stable-Baselines3 archive whose %s does not have its checksum", name)
		}
		return inner, nil
	}
	return b, nil
}

// isSafetensors goes by the content, so that a wrong name is no riddle, and by the
// name, so that a damaged file gets the right message.
func isSafetensors(name string, b []byte) bool {
	if strings.HasSuffix(name, ".safetensors") {
		return true
	}
	return len(b) > 8 && b[8] == '{' && binary.LittleEndian.Uint64(b) <= uint64(len(b)-8) && !bytes.HasPrefix(b, []byte("PK"))
}

// shown makes a value fit for JSON.
func shown(v any) any {
	switch v := v.(type) {
	case []byte:
		return fmt.Sprintf("%d bytes", len(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Sprint(v)
		}
	}
	return v
}

// notFinite counts NaN and infinite values: a float's exponent is all ones then.
func notFinite(dtype string, b []byte) int {
	n := 0
	le := binary.LittleEndian
	switch dtype {
	case "F32":
		for ; len(b) >= 4; b = b[4:] {
			if le.Uint32(b)&0x7f800000 == 0x7f800000 {
				n++
			}
		}
	case "F64":
		for ; len(b) >= 8; b = b[8:] {
			if le.Uint64(b)&0x7ff0000000000000 == 0x7ff0000000000000 {
				n++
			}
		}
	case "F16", "BF16":
		mask := uint16(0x7c00)
		if dtype == "BF16" {
			mask = 0x7f80
		}
		for ; len(b) >= 2; b = b[2:] {
			if le.Uint16(b)&mask == mask {
				n++
			}
		}
	}
	return n
}
