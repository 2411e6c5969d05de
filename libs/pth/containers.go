package pth

import (
	"archive/zip"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"math/big"
	"path"
	"slices"
	"strings"
)

// maxEntries bounds the records of a zip.
const maxEntries = 1 << 20

// zip reads torch 1.6's format: data.pkl and one record per storage, below one
// folder. Records are stored, never deflated, as torch writes them: a deflated
// one is refused, and with it every zip bomb. Nothing is copied.
func (r *reader) zip(b []byte) (any, error) {
	z, err := zip.NewReader(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("not a sound zip: %w", err)
	}
	if len(z.File) > maxEntries {
		return nil, fmt.Errorf("%d records", len(z.File))
	}
	records := make(map[string]*zip.File, len(z.File))
	var root string
	for _, f := range z.File {
		if records[f.Name] != nil {
			return nil, fmt.Errorf("the record %.80q appears twice", f.Name)
		}
		if clean := strings.TrimSuffix(f.Name, "/"); path.Clean("/"+clean) != "/"+clean || strings.Contains(clean, `\`) {
			// Nothing is unpacked here; the next reader may be less careful.
			return nil, fmt.Errorf("the record %.80q has a name that leads elsewhere", f.Name)
		}
		records[f.Name] = f
		if folder, ok := strings.CutSuffix(f.Name, "/data.pkl"); ok {
			if root != "" {
				return nil, errors.New("more than one data.pkl")
			}
			root = folder
		}
		if strings.HasSuffix(f.Name, "/constants.pkl") {
			return nil, errors.New("it is a TorchScript archive, not a state dictionary: it holds code")
		}
	}
	if root == "" {
		return nil, errors.New("the zip has no data.pkl: not a PyTorch file")
	}
	if err := disjoint(z.File); err != nil {
		return nil, err
	}
	read := func(name string) ([]byte, error) {
		f := records[root+"/"+name]
		if f == nil {
			return nil, fmt.Errorf("the record %.80q is missing", name)
		}
		if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 {
			return nil, fmt.Errorf("the record %.80q is not stored plainly", name)
		}
		at, err := f.DataOffset()
		if err != nil || at < 0 || f.UncompressedSize64 > uint64(len(b)) || at > int64(len(b))-int64(f.UncompressedSize64) {
			return nil, errors.Join(fmt.Errorf("the record %.80q reaches past the end of the file", name), err)
		}
		data := b[at : at+int64(f.UncompressedSize64)]
		if sum := crc32.ChecksumIEEE(data); sum != f.CRC32 {
			return nil, fmt.Errorf("the record %.80q is damaged: its checksum is %08x, not %08x", name, sum, f.CRC32)
		}
		return data[:len(data):len(data)], nil
	}
	if records[root+"/byteorder"] != nil {
		order, err := read("byteorder")
		if err != nil {
			return nil, err
		}
		if string(order) != "little" {
			return nil, fmt.Errorf("byte order %.20q", order)
		}
	}
	pickle, err := read("data.pkl")
	if err != nil {
		return nil, err
	}
	r.storages = map[string]*storage{}
	v, used, err := r.unpickle(pickle, func(id any) (any, error) {
		s, key, err := r.storageOf(id)
		if s == nil || err != nil || s.data != nil {
			return orOpaque(s), err
		}
		data, err := read("data/" + key)
		if err != nil {
			return nil, err
		}
		if want := s.count * int64(sizes[s.dtype]); want > int64(len(data)) {
			return nil, fmt.Errorf("storage %.40q has %d bytes, %d elements of %s need %d", key, len(data), s.count, s.dtype, want)
		}
		s.data = data
		return s, nil
	})
	if err == nil && used < len(pickle) {
		err = fmt.Errorf("%d bytes follow the end of its pickle", len(pickle)-used)
	}
	return v, err
}

// disjoint refuses records that share bytes: no writer makes them, and a file of
// a few bytes could claim any size with them.
func disjoint(files []*zip.File) error {
	type span struct {
		from, to int64
		name     string
	}
	spans := make([]span, 0, len(files))
	for _, f := range files {
		at, err := f.DataOffset()
		if err != nil {
			return fmt.Errorf("the record %.80q: %w", f.Name, err)
		}
		if f.CompressedSize64 > math.MaxInt64/2 {
			return fmt.Errorf("the record %.80q reaches past the end of the file", f.Name)
		}
		spans = append(spans, span{at, at + int64(f.CompressedSize64), f.Name})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return fmt.Errorf("the records %.80q and %.80q overlap", spans[i-1].name, spans[i].name)
		}
	}
	return nil
}

// orOpaque keeps a refused storage from being a nil pointer in an interface.
func orOpaque(s *storage) any {
	if s == nil {
		return opaque{"storage"}
	}
	return s
}

// storageOf reads the persistent id ('storage', type, key, location, count, ...).
// It is nil without an error for a type that a lenient read leaves out.
func (r *reader) storageOf(id any) (*storage, string, error) {
	t, ok := id.(tuple)
	if !ok || len(t) < 5 || t[0] != "storage" {
		return nil, "", errors.New("a persistent id that is not a storage")
	}
	if _, ok := t[1].(opaque); ok {
		return nil, "", nil
	}
	g, ok := t[1].(global)
	key, isText := t[2].(string)
	count, isCount := t[4].(int64)
	dtype := storageTypes[g.name]
	if !ok || dtype == "" || !isText || !isCount || count < 0 || count > int64(1)<<40 {
		return nil, "", errors.New("a malformed storage")
	}
	if len(t) > 5 && t[5] != nil {
		return nil, "", errors.New("a storage that is a view of another: a format before torch 0.4")
	}
	s := r.storages[key]
	if s == nil {
		s = &storage{dtype: dtype, count: count}
		r.storages[key] = s
	}
	if s.dtype != dtype || s.count != count {
		// The same memory under two types is legal in torch and never written by a state_dict.
		return nil, "", fmt.Errorf("storage %.40q is named twice with other properties", key)
	}
	return s, key, nil
}

// legacyMagic is the first pickle of the stream format.
var legacyMagic, _ = new(big.Int).SetString("1950a86a20f9469cfc6c", 16)

// legacy reads the format before torch 1.6: the pickles magic, protocol, system,
// object and storage keys, then for every key its count and its bytes.
func (r *reader) legacy(b []byte) (any, error) {
	r.storages = map[string]*storage{}
	next := func(persistent func(any) (any, error)) (any, error) {
		v, used, err := r.unpickle(b, persistent)
		if err == nil {
			b = b[used:]
		}
		return v, err
	}
	magic, err := next(nil)
	if err != nil || magic != legacyMagic.String() {
		return nil, errors.Join(errors.New("neither a zip nor a legacy PyTorch file"), err)
	}
	version, err := next(nil)
	if err != nil || version != int64(1001) {
		return nil, errors.Join(fmt.Errorf("legacy protocol %v", version), err)
	}
	system, err := next(nil)
	if err != nil {
		return nil, err
	}
	if d, ok := system.(*dict); ok {
		for i, k := range d.keys {
			if k == "little_endian" && d.values[i] != true {
				return nil, errors.New("a big-endian file")
			}
		}
	}
	root, err := next(func(id any) (any, error) {
		s, _, err := r.storageOf(id)
		return orOpaque(s), err
	})
	if err != nil {
		return nil, err
	}
	keys, err := next(nil)
	if err != nil {
		return nil, err
	}
	l, ok := keys.(*list)
	if !ok {
		return nil, errors.New("no list of storages")
	}
	for _, k := range l.items {
		key, ok := k.(string)
		s := r.storages[key]
		if !ok || len(b) < 8 {
			return nil, errors.New("a malformed list of storages")
		}
		count := binary.LittleEndian.Uint64(b)
		b = b[8:]
		if s == nil {
			if r.options.Lenient {
				return nil, errors.New("a legacy file with a storage of unknown type: its length is not known")
			}
			return nil, fmt.Errorf("storage %.40q is never used", key)
		}
		size := uint64(sizes[s.dtype])
		if count != uint64(s.count) || count > uint64(len(b))/size {
			return nil, fmt.Errorf("storage %.40q claims %d elements of %d, %d bytes are left", key, count, s.count, len(b))
		}
		s.data = b[: count*size : count*size]
		b = b[count*size:]
	}
	for key, s := range r.storages {
		if s.data == nil && s.count > 0 {
			return nil, fmt.Errorf("storage %.40q has no data", key)
		}
	}
	return root, nil
}
