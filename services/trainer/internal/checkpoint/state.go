package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The trainer's state file: magic, version, number of sections, then per section
// name length, name, data length, data; at the end the SHA-256 of all before it.
// Numbers are little-endian.
const (
	stateMagic   = "TYSTATE\n"
	stateVersion = 1
	maxSections  = 64
)

// Section is one part of the trainer's state.
type Section struct {
	Name string
	Data []byte
}

// EncodeState joins the sections in the given order.
func EncodeState(sections []Section) []byte {
	var b bytes.Buffer
	b.WriteString(stateMagic)
	put := func(v uint64) { _ = binary.Write(&b, binary.LittleEndian, v) }
	put(stateVersion)
	put(uint64(len(sections)))
	for _, s := range sections {
		put(uint64(len(s.Name)))
		b.WriteString(s.Name)
		put(uint64(len(s.Data)))
		b.Write(s.Data)
	}
	sum := sha256.Sum256(b.Bytes())
	return append(b.Bytes(), sum[:]...)
}

// DecodeState checks the digest and splits the sections by name.
func DecodeState(b []byte) (map[string][]byte, error) {
	if len(b) < len(stateMagic)+16+sha256.Size || string(b[:len(stateMagic)]) != stateMagic {
		return nil, errors.New("trainer state: not a trainer state file")
	}
	body, want := b[:len(b)-sha256.Size], b[len(b)-sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], want) {
		return nil, errors.New("trainer state: damaged: the digest does not match")
	}
	rest := body[len(stateMagic):]
	next := func() (uint64, bool) {
		if len(rest) < 8 {
			return 0, false
		}
		v := binary.LittleEndian.Uint64(rest)
		rest = rest[8:]
		return v, true
	}
	take := func() ([]byte, bool) {
		n, ok := next()
		if !ok || n > uint64(len(rest)) {
			return nil, false
		}
		out := rest[:n:n]
		rest = rest[n:]
		return out, true
	}
	if v, ok := next(); !ok || v != stateVersion {
		return nil, fmt.Errorf("trainer state: version %d, this trainer reads %d", v, stateVersion)
	}
	n, ok := next()
	if !ok || n > maxSections {
		return nil, errors.New("trainer state: malformed")
	}
	out := make(map[string][]byte, n)
	for range n {
		name, ok1 := take()
		data, ok2 := take()
		if !ok1 || !ok2 {
			return nil, errors.New("trainer state: malformed")
		}
		out[string(name)] = data
	}
	if len(rest) != 0 {
		return nil, errors.New("trainer state: malformed")
	}
	return out, nil
}
