package disk

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
)

// sealMagic opens every sealed file; its last byte is the format's version.
const sealMagic = "TYSEAL\n\x01"

const sealHeader = len(sealMagic) + 8 + sha256.Size

// CorruptError says that a durable record is not what was written.
type CorruptError struct {
	Path   string
	Detail string
}

func (e *CorruptError) Error() string { return fmt.Sprintf("%s is corrupt: %s", e.Path, e.Detail) }

// WriteSealed replaces path by payload, atomically and durably: after it
// returns nil a reader sees the whole payload, after a crash at any point the
// old one or the new one. An append-only log was the alternative; its torn tail
// cannot be told from a flipped bit in the last record, a replaced file has no
// tail.
func WriteSealed(fsys FS, path string, payload []byte) error {
	if err := replace(fsys, path, payload, File.Sync); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(path))
}

// WriteVolatile is WriteSealed for what need only survive this process: after
// power loss the file may be old, missing or corrupt, and reads as such.
func WriteVolatile(fsys FS, path string, payload []byte) error {
	return replace(fsys, path, payload, func(File) error { return nil })
}

func replace(fsys FS, path string, payload []byte, sync func(File) error) error {
	buf := make([]byte, 0, sealHeader+len(payload))
	buf = append(buf, sealMagic...)
	buf = binary.BigEndian.AppendUint64(buf, uint64(len(payload)))
	buf = append(buf, digest(payload)...)
	buf = append(buf, payload...)

	tmp := path + ".tmp"
	f, err := fsys.Create(tmp)
	if err != nil {
		return err
	}
	if _, err = f.Write(buf); err == nil {
		err = sync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, fsys.Remove(tmp))
	}
	return fsys.Rename(tmp, path)
}

// ReadSealed returns what WriteSealed wrote. A missing file is fs.ErrNotExist,
// anything else than the exact bytes is a *CorruptError.
func ReadSealed(fsys FS, path string) ([]byte, error) {
	raw, err := fsys.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if len(raw) < sealHeader {
		return nil, &CorruptError{path, fmt.Sprintf("%d bytes, shorter than its header", len(raw))}
	}
	if string(raw[:len(sealMagic)]) != sealMagic {
		return nil, &CorruptError{path, "unknown header"}
	}
	size := binary.BigEndian.Uint64(raw[len(sealMagic):])
	payload := raw[sealHeader:]
	if size != uint64(len(payload)) {
		return nil, &CorruptError{path, fmt.Sprintf("header says %d bytes, file has %d", size, len(payload))}
	}
	if !bytes.Equal(digest(payload), raw[len(sealMagic)+8:sealHeader]) {
		return nil, &CorruptError{path, "checksum mismatch"}
	}
	return payload, nil
}

// digest is SHA-256: records are small and a collision must not be constructible.
func digest(payload []byte) []byte {
	sum := sha256.Sum256(payload)
	return sum[:]
}
