// Package checkpointcodec packs checkpoint files without loss. Floating point numbers
// hardly compress as bytes, because their mantissas are noise; but their
// exponents are not. So numbers are cut into planes, all first bytes, all second
// bytes and so on, and each plane is entropy-coded on its own with huff0. Against
// an earlier checkpoint of the same run the difference of the numbers is coded,
// which makes the upper planes nearly empty. A block whose difference is not worth
// it is coded alone, so that two checkpoints which share only some tensors, such as
// a common trunk, store these once and lose nothing on the others.
//
// zstd over the whole file is not used: on training checkpoints it saves
// nothing at its fast levels and 8 % at its slow ones. It is the fallback for
// blocks that are text.
//
// A packed file, all integers little-endian:
//
//	"TYAR" version:u8 width:u8 flags:u8 reserved:u8
//	base digest (32 bytes, only with flag 1)
//	blocks: rawLength:u32 (its top bit: this block is no difference), then per
//	        plane mode:u8 length:u32 bytes
//	rawLength 0, total:u64, SHA-256 of the source (32 bytes)
//	CRC-32C of everything before: u32
//
// A reader gets bytes back only if they have the digest that was written. The
// checksum is there for the few bits that decode to the same bytes when flipped:
// a damaged archive is to be noticed before it matters.
package checkpointcodec

import "errors"

const (
	magic = "TYAR"
	// version 2 may leave the base aside for single blocks; 1 is still read.
	version = 2
	// flagDelta says that blocks are differences to a base.
	flagDelta = 1
	// flagAlone, in a block's length, says that this block is no difference.
	flagAlone = 1 << 31
	// blockSize is a multiple of every width, and a plane of it fits into one
	// huff0 block, of at most 128 KiB, already at width 2.
	blockSize = 256 << 10
	maxPlane  = 128 << 10
)

// Modes of one plane.
const (
	modeRaw  = 0
	modeFill = 1 // one byte, repeated
	modeHuff = 2
	modeZstd = 3
)

// Errors of reading; test with errors.Is.
var (
	// ErrFormat: this is no packed file, or it is cut or damaged.
	ErrFormat = errors.New("not a readable archive")
	// ErrDigest: the bytes do not have the digest that was written.
	ErrDigest = errors.New("archive digest mismatch")
	// ErrBase: another base is needed than the one given.
	ErrBase = errors.New("archive needs another base")
)

// Stats say what packing did.
type Stats struct {
	// Raw and Packed are sizes in bytes.
	Raw, Packed int64
	// Width is the number size that was chosen, 1 for none.
	Width int
	// SHA256 is the content's digest, in lowercase hex.
	SHA256 string
}

// Saved is the part of the source that packing saved, 0 to 1.
func (s Stats) Saved() float64 {
	if s.Raw == 0 {
		return 0
	}
	return 1 - float64(s.Packed)/float64(s.Raw)
}
