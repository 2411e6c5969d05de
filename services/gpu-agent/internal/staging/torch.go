package staging

import (
	"archive/zip"
	"errors"
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// maxEntries bounds the entries of a torch archive.
const maxEntries = 65536

// torchFile checks what torch.save writes since version 1.6: a zip of stored,
// never compressed, entries that neither overlap nor repeat; a pickle that only
// names tensors; storages of the right size with finite values. The format
// before that is one pickle after another and is refused.
func torchFile(r io.ReaderAt, size int64) error {
	archive, err := zip.NewReader(r, size)
	if err != nil {
		return errors.New("is not a torch archive (zip); save it with torch 1.6 or newer, or as safetensors")
	}
	entries, prefix, err := archiveEntries(archive)
	if err != nil {
		return err
	}
	if order, ok := entries["byteorder"]; ok {
		raw, err := readEntry(order, 16)
		if err != nil {
			return err
		}
		if string(raw) != "little" {
			return fmt.Errorf("byte order %q is not little", raw)
		}
	}
	pickle, ok := entries["data.pkl"]
	if !ok {
		return fmt.Errorf("%s/data.pkl is missing", prefix)
	}
	raw, err := readEntry(pickle, maxPickle)
	if err != nil {
		return err
	}
	storages, err := scanPickle(raw)
	if err != nil {
		return err
	}
	checked := map[string]bool{}
	for _, s := range storages {
		if checked[s.key] {
			continue
		}
		checked[s.key] = true
		entry, ok := entries["data/"+s.key]
		if !ok {
			return fmt.Errorf("storage %q is missing", s.key)
		}
		if entry.UncompressedSize64 != uint64(s.numel)*widths[s.dtype] {
			return fmt.Errorf("storage %q has %d bytes, %d elements of %s were announced", s.key, entry.UncompressedSize64, s.numel, s.dtype)
		}
		if err := checkEntry(entry, tensor{Name: s.key, DType: s.dtype}); err != nil {
			return err
		}
	}
	return nil
}

// archiveEntries lists an archive's files by their names below the one top
// directory. Overlapping and compressed entries are how small files become
// large ones.
func archiveEntries(archive *zip.Reader) (map[string]*zip.File, string, error) {
	if len(archive.File) > maxEntries {
		return nil, "", fmt.Errorf("%d entries are over the limit of %d", len(archive.File), maxEntries)
	}
	type span struct{ from, to int64 }
	var spans []span
	entries := map[string]*zip.File{}
	prefix := ""
	for _, f := range archive.File {
		if f.Method != zip.Store || f.CompressedSize64 != f.UncompressedSize64 {
			return nil, "", fmt.Errorf("entry %q is compressed", f.Name)
		}
		if path.Clean(f.Name) != f.Name || strings.HasPrefix(f.Name, "/") || strings.HasPrefix(f.Name, "..") || strings.Contains(f.Name, `\`) {
			return nil, "", fmt.Errorf("entry %q has an unsafe name", f.Name)
		}
		top, rest, ok := strings.Cut(f.Name, "/")
		if !ok || prefix != "" && top != prefix {
			return nil, "", fmt.Errorf("entry %q is not below one top directory", f.Name)
		}
		prefix = top
		if _, twice := entries[rest]; twice {
			return nil, "", fmt.Errorf("entry %q comes twice", f.Name)
		}
		entries[rest] = f
		at, err := f.DataOffset()
		if err != nil {
			return nil, "", fmt.Errorf("entry %q: %w", f.Name, err)
		}
		spans = append(spans, span{at, at + int64(f.CompressedSize64)})
	}
	sort.Slice(spans, func(i, j int) bool { return spans[i].from < spans[j].from })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return nil, "", errors.New("entries overlap")
		}
	}
	return entries, prefix, nil
}

// readEntry reads a small entry; the zip reader verifies its CRC.
func readEntry(f *zip.File, limit int64) (raw []byte, err error) {
	if f.UncompressedSize64 > uint64(limit) {
		return nil, fmt.Errorf("entry %q of %d bytes is over the limit of %d", f.Name, f.UncompressedSize64, limit)
	}
	in, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("entry %q: %w", f.Name, err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if raw, err = io.ReadAll(in); err != nil {
		return nil, fmt.Errorf("entry %q: %w", f.Name, err)
	}
	return raw, nil
}

func checkEntry(f *zip.File, t tensor) (err error) {
	in, err := f.Open()
	if err != nil {
		return fmt.Errorf("entry %q: %w", f.Name, err)
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := finite(in, t); err != nil {
		return err
	}
	// What holds no floats is read too, for its CRC.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("entry %q: %w", f.Name, err)
	}
	return nil
}
