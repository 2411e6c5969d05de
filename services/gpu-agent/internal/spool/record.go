package spool

import (
	"encoding/binary"
	"hash/crc32"
)

// Kind tells what a record is.
type Kind uint8

// Kinds of records. A Mark only makes a source sequence durable: its frame had
// its effect elsewhere.
const (
	Mark  Kind = 1
	Batch Kind = 2
)

// Record is one spooled message.
type Record struct {
	// Sequence is the spool's own, 1, 2, ... without gaps.
	Sequence uint64
	// Source is the trainer's sequence; 0 for what the agent itself adds.
	Source uint64
	Kind   Kind
	// Payload is opaque.
	Payload []byte
}

const (
	segmentMagic  = "TYSPOOL\x01"
	segmentHeader = len(segmentMagic) + 8 + 8 + 8 + 4
	recordHeader  = 4 + 4 + 8 + 8 + 1
	// MaxPayload bounds one record.
	MaxPayload = 8 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord writes length, checksum, sequence, source, kind, payload. The
// checksum covers all but itself.
func appendRecord(buf []byte, r Record) []byte {
	start := len(buf)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(r.Payload)))
	buf = binary.BigEndian.AppendUint32(buf, 0)
	buf = binary.BigEndian.AppendUint64(buf, r.Sequence)
	buf = binary.BigEndian.AppendUint64(buf, r.Source)
	buf = append(buf, byte(r.Kind))
	buf = append(buf, r.Payload...)
	binary.BigEndian.PutUint32(buf[start+4:], checksum(buf[start:]))
	return buf
}

func checksum(record []byte) uint32 {
	sum := crc32.Update(0, castagnoli, record[:4])
	return crc32.Update(sum, castagnoli, record[8:])
}

// parseRecord reads the record at the start of buf; ok is false when there is
// no whole, unharmed record.
func parseRecord(buf []byte) (r Record, size int, ok bool) {
	if len(buf) < recordHeader {
		return r, 0, false
	}
	length := int(binary.BigEndian.Uint32(buf))
	if length > MaxPayload || len(buf) < recordHeader+length {
		return r, 0, false
	}
	size = recordHeader + length
	if binary.BigEndian.Uint32(buf[4:]) != checksum(buf[:size]) {
		return r, 0, false
	}
	r.Sequence = binary.BigEndian.Uint64(buf[8:])
	r.Source = binary.BigEndian.Uint64(buf[16:])
	r.Kind = Kind(buf[24])
	r.Payload = buf[recordHeader:size:size]
	return r, size, true
}

// header opens every segment and says where the spool stood: with all older
// segments deleted it still knows its sequences.
func header(index, sequence, source uint64) []byte {
	buf := append([]byte(nil), segmentMagic...)
	buf = binary.BigEndian.AppendUint64(buf, index)
	buf = binary.BigEndian.AppendUint64(buf, sequence)
	buf = binary.BigEndian.AppendUint64(buf, source)
	return binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
}

func parseHeader(buf []byte) (sequence, source uint64, ok bool) {
	if len(buf) < segmentHeader || string(buf[:len(segmentMagic)]) != segmentMagic {
		return 0, 0, false
	}
	body := buf[:segmentHeader-4]
	if binary.BigEndian.Uint32(buf[segmentHeader-4:]) != crc32.Checksum(body, castagnoli) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(body[len(segmentMagic)+8:]), binary.BigEndian.Uint64(body[len(segmentMagic)+16:]), true
}

// resync looks for a whole record after damage, to tell a torn tail (nothing
// follows) from a corrupt middle (acknowledged records may be lost).
func resync(buf []byte, after uint64) bool {
	for i := 1; i+recordHeader <= len(buf); i++ {
		if r, _, ok := parseRecord(buf[i:]); ok && r.Sequence > after {
			return true
		}
	}
	return false
}
