package staging

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"sort"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// maxHeader is the safetensors format's own bound.
const maxHeader = 100 << 20

// Validate returns every problem of a file's structure, by what its name says
// it is. A name with another ending has no structure to check; its digest was
// verified on the way in.
func Validate(name string, c disk.Content) []string {
	var problem error
	switch path.Ext(name) {
	case ".safetensors":
		problem = safetensors(c, c.Size())
	case ".json":
		problem = jsonFile(c, c.Size())
	case ".pt", ".pth":
		problem = torchFile(c)
	}
	if problem == nil {
		return nil
	}
	return []string{name + ": " + problem.Error()}
}

func jsonFile(r io.ReaderAt, size int64) error {
	const limit = 64 << 20
	if size > limit {
		return fmt.Errorf("%d bytes of JSON are over the limit of %d", size, limit)
	}
	raw := make([]byte, size)
	if _, err := r.ReadAt(raw, 0); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if !json.Valid(raw) {
		return errors.New("is not valid JSON")
	}
	return nil
}

type tensor struct {
	Name    string
	DType   string    `json:"dtype"`
	Shape   []uint64  `json:"shape"`
	Offsets [2]uint64 `json:"data_offsets"`
}

var widths = map[string]uint64{
	"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1,
	"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}

// safetensors checks that the header is sound, that the tensors fill the data
// exactly, without gap or overlap, and that every weight is finite.
func safetensors(r io.ReaderAt, size int64) error {
	var prefix [8]byte
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return errors.New("is shorter than a safetensors header")
	}
	length := binary.LittleEndian.Uint64(prefix[:])
	if length > maxHeader || int64(length) > size-8 {
		return fmt.Errorf("the header claims %d bytes, the file has %d", length, size)
	}
	raw := make([]byte, length)
	if _, err := r.ReadAt(raw, 8); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	tensors, err := parseTensors(raw)
	if err != nil {
		return err
	}
	data := uint64(size) - 8 - length
	var end uint64
	for _, t := range tensors {
		if t.Offsets[0] != end || t.Offsets[1] < t.Offsets[0] || t.Offsets[1] > data {
			return fmt.Errorf("tensor %q lies at %v, expected to begin at %d within %d bytes", t.Name, t.Offsets, end, data)
		}
		if want, ok := t.bytes(); !ok || want != t.Offsets[1]-t.Offsets[0] {
			return fmt.Errorf("tensor %q (%s %v) does not have the size of its data", t.Name, t.DType, t.Shape)
		}
		end = t.Offsets[1]
	}
	if end != data {
		return fmt.Errorf("%d bytes of data belong to no tensor", data-end)
	}
	for _, t := range tensors {
		section := io.NewSectionReader(r, 8+int64(length)+int64(t.Offsets[0]), int64(t.Offsets[1]-t.Offsets[0]))
		if err := finite(section, t); err != nil {
			return err
		}
	}
	return nil
}

func parseTensors(raw []byte) ([]tensor, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	var header map[string]json.RawMessage
	if err := decoder.Decode(&header); err != nil {
		return nil, fmt.Errorf("the header is not JSON: %w", err)
	}
	var tensors []tensor
	for name, body := range header {
		if name == "__metadata__" {
			continue
		}
		t := tensor{Name: name}
		if err := json.Unmarshal(body, &t); err != nil {
			return nil, fmt.Errorf("tensor %q: %w", name, err)
		}
		tensors = append(tensors, t)
	}
	sort.Slice(tensors, func(i, j int) bool {
		a, b := tensors[i], tensors[j]
		if a.Offsets != b.Offsets {
			return a.Offsets[0] < b.Offsets[0] || a.Offsets[0] == b.Offsets[0] && a.Offsets[1] < b.Offsets[1]
		}
		return a.Name < b.Name
	})
	return tensors, nil
}

func (t tensor) bytes() (uint64, bool) {
	total, ok := widths[t.DType]
	for _, n := range t.Shape {
		if n != 0 && total > math.MaxUint64/n {
			return 0, false
		}
		total *= n
	}
	return total, ok
}

// finite looks for NaN and Inf: an exponent of all ones.
func finite(r io.Reader, t tensor) error {
	var bad func([]byte) bool
	switch t.DType {
	case "F64":
		bad = func(b []byte) bool { return binary.LittleEndian.Uint64(b)&(0x7ff<<52) == 0x7ff<<52 }
	case "F32":
		bad = func(b []byte) bool { return binary.LittleEndian.Uint32(b)&(0xff<<23) == 0xff<<23 }
	case "F16":
		bad = func(b []byte) bool { return binary.LittleEndian.Uint16(b)&(0x1f<<10) == 0x1f<<10 }
	case "BF16":
		bad = func(b []byte) bool { return binary.LittleEndian.Uint16(b)&(0xff<<7) == 0xff<<7 }
	default:
		return nil
	}
	width := int(widths[t.DType])
	buf := make([]byte, 256<<10)
	at := 0
	for {
		n, err := io.ReadFull(r, buf)
		for i := 0; i+width <= n; i += width {
			if bad(buf[i : i+width]) {
				return fmt.Errorf("tensor %q: element %d is not finite", t.Name, (at+i)/width)
			}
		}
		at += n
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
