package safetensors

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Cut returns the lengths of the pieces that a file of size bytes is best stored as, in its order and together the whole of it: every
// tensor of at least least bytes is a piece, and what lies between is merged into pieces of about least. Where the tensors of two files
// agree their pieces do, whatever comes before them. When there would be more than most pieces, least is doubled until there are not. nil
// means that the file is best left whole.
func Cut(r io.ReaderAt, size, least int64, most int) ([]int64, error) {
	least, most = max(least, 1), max(most, 1)
	if least > size/2 {
		return nil, nil
	}
	header, tensors, err := layout(r, size)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %w", err)
	}
	for ; ; least *= 2 {
		if pieces := merge(header, tensors, least); len(pieces) == 1 {
			return nil, nil
		} else if len(pieces) <= most {
			return pieces, nil
		}
	}
}

// merge cuts by one bound.
func merge(header int64, tensors []int64, least int64) []int64 {
	var pieces []int64
	small := header
	flush := func() {
		if small > 0 {
			pieces = append(pieces, small)
		}
		small = 0
	}
	if header >= least {
		flush()
	}
	for _, n := range tensors {
		if n >= least {
			flush()
		}
		if small += n; small >= least {
			flush()
		}
	}
	flush()
	return pieces
}

// layout returns the length of everything before the tensors, and theirs in the order of their data.
func layout(r io.ReaderAt, size int64) (header int64, tensors []int64, err error) {
	var prefix [8]byte
	if _, err := r.ReadAt(prefix[:], 0); err != nil {
		return 0, nil, fmt.Errorf("read the header's length: %w", err)
	}
	n := binary.LittleEndian.Uint64(prefix[:])
	if n > maxHeader || int64(n) > size-8 {
		return 0, nil, fmt.Errorf("a header of %d bytes does not fit into a file of %d", n, size)
	}
	text := make([]byte, n)
	if _, err := r.ReadAt(text, 8); err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, fmt.Errorf("read the header: %w", err)
	}
	fields, err := objectFields(text)
	if err != nil {
		return 0, nil, err
	}
	var extents [][2]int64
	for _, f := range fields {
		if f.name == "__metadata__" {
			continue
		}
		var e struct {
			Offsets [2]int64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(f.value, &e); err != nil {
			return 0, nil, fmt.Errorf("tensor %q: %w", f.name, err)
		}
		extents = append(extents, e.Offsets)
	}
	slices.SortFunc(extents, func(a, b [2]int64) int { return cmp.Or(cmp.Compare(a[0], b[0]), cmp.Compare(a[1], b[1])) })
	header = 8 + int64(n)
	at := int64(0)
	for _, e := range extents {
		if e[0] != at || e[1] < at || e[1] > size-header {
			return 0, nil, fmt.Errorf("a tensor lies at %v, the one before it ends at %d of %d bytes", e, at, size-header)
		}
		tensors, at = append(tensors, e[1]-e[0]), e[1]
	}
	if at != size-header {
		return 0, nil, fmt.Errorf("%d bytes after the last tensor", size-header-at)
	}
	return header, tensors, nil
}
