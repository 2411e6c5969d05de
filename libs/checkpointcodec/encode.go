package checkpointcodec

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

// textEncoder is shared: its EncodeAll keeps nothing, and making one costs more than packing a small file.
var textEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
	return zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault))
})

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encoder packs one file; its buffers are reused from block to block.
type encoder struct {
	out    *bufio.Writer
	n      int64
	crc    uint32
	width  int
	huff   *huff0.Scratch
	zstd   *zstd.Encoder
	planes []byte
	diff   []byte
	// coded is the block being made, spare the one before it.
	coded, spare []byte
}

// Encode packs src into dst. With a base, of any length, the difference to it is
// coded as far as both reach; the base's digest goes into the file, and the same
// base is needed to unpack.
func Encode(dst io.Writer, src io.Reader, base io.ReadSeeker) (Stats, error) {
	z, err := textEncoder()
	if err != nil {
		return Stats{}, err
	}
	e := &encoder{out: bufio.NewWriterSize(dst, 256<<10), huff: &huff0.Scratch{Reuse: huff0.ReusePolicyNone}, zstd: z,
		planes: make([]byte, blockSize), diff: make([]byte, blockSize)}
	header := []byte(magic + string(rune(version)) + "\x00\x00\x00")
	if base != nil {
		digest, err := digestOf(base)
		if err != nil {
			return Stats{}, fmt.Errorf("read the base: %w", err)
		}
		header[6] = flagDelta
		header = append(header, digest...)
	}
	sum := sha256.New()
	block, baseBlock := make([]byte, blockSize), make([]byte, blockSize)
	var raw int64
	for first := true; ; first = false {
		n, err := io.ReadFull(src, block)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return Stats{}, fmt.Errorf("read the source: %w", err)
		}
		work := block[:n]
		sum.Write(work)
		raw += int64(n)
		if base != nil {
			if err := readBase(base, baseBlock[:n]); err != nil {
				return Stats{}, err
			}
		}
		if first {
			e.width = e.choose(work, baseBlock[:n], base != nil)
			header[5] = byte(e.width)
			if err := e.write(header); err != nil {
				return Stats{}, err
			}
		}
		if n == 0 {
			break
		}
		if err := e.block(work, baseBlock[:n], base != nil); err != nil {
			return Stats{}, err
		}
	}
	trailer := make([]byte, 12, 12+sha256.Size)
	binary.LittleEndian.PutUint64(trailer[4:], uint64(raw))
	if err := e.write(sum.Sum(trailer)); err != nil {
		return Stats{}, err
	}
	if err := e.write(binary.LittleEndian.AppendUint32(nil, e.crc)); err != nil {
		return Stats{}, err
	}
	if err := e.out.Flush(); err != nil {
		return Stats{}, err
	}
	return Stats{Raw: raw, Packed: e.n, Width: e.width, SHA256: hex.EncodeToString(sum.Sum(nil))}, nil
}

func digestOf(r io.ReadSeeker) ([]byte, error) {
	sum := sha256.New()
	if _, err := io.Copy(sum, r); err != nil {
		return nil, err
	}
	_, err := r.Seek(0, io.SeekStart)
	return sum.Sum(nil), err
}

// readBase fills b from the base; behind its end the base is zero.
func readBase(base io.Reader, b []byte) error {
	n, err := io.ReadFull(base, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("read the base: %w", err)
	}
	clear(b[n:])
	return nil
}

func (e *encoder) write(b []byte) error {
	e.n += int64(len(b))
	e.crc = crc32.Update(e.crc, castagnoli, b)
	_, err := e.out.Write(b)
	return err
}

// choose tries every width on the first block and takes the smallest result: it
// needs no knowledge of any file format, and headers are too short to mislead.
func (e *encoder) choose(block, base []byte, delta bool) int {
	best, size := 1, int64(-1)
	for _, width := range []int{4, 2, 8, 1} {
		e.width = width
		src := block
		if delta {
			subtract(e.diff[:len(block)], block, base, width)
			src = e.diff[:len(block)]
		}
		if n := int64(len(e.codeBlock(src))); size < 0 || n < size {
			best, size = width, n
		}
	}
	return best
}

// worth is the part of a block that its difference must not exceed. Above it the block is tried
// without the base as well: of two checkpoints that share some tensors, the others' difference is
// noise on noise, and longer than they are.
const worth = 0.80

func (e *encoder) block(src, base []byte, delta bool) error {
	if !delta {
		return e.emit(e.codeBlock(src), len(src), 0)
	}
	subtract(e.diff[:len(src)], src, base, e.width)
	coded := e.codeBlock(e.diff[:len(src)])
	if float64(len(coded)) <= worth*float64(len(src)) {
		return e.emit(coded, len(src), 0)
	}
	e.coded, e.spare = e.spare, e.coded
	if alone := e.codeBlock(src); len(alone) < len(coded) {
		return e.emit(alone, len(src), flagAlone)
	}
	return e.emit(coded, len(src), 0)
}

func (e *encoder) emit(coded []byte, raw int, flag uint32) error {
	var length [4]byte
	binary.LittleEndian.PutUint32(length[:], uint32(raw)|flag)
	if err := e.write(length[:]); err != nil {
		return err
	}
	return e.write(coded)
}

// codeBlock codes the planes of one block. The result is good until the next call but one.
func (e *encoder) codeBlock(src []byte) []byte {
	e.coded = e.coded[:0]
	if e.width == 1 {
		// No numbers: one plane, for which zstd knows more than huff0 does.
		e.plane(modeZstd, src)
		return e.coded
	}
	split(e.planes[:len(src)], src, e.width)
	for _, p := range planesOf(e.planes[:len(src)], e.width) {
		e.plane(modeHuff, p)
	}
	return e.coded
}

// planesOf cuts a split block into its planes, and these into what one huff0
// block can hold. Reader and writer must agree on it.
func planesOf(block []byte, width int) [][]byte {
	n := len(block) / width
	var out [][]byte
	for k := range width {
		for plane := block[k*n : (k+1)*n]; len(plane) > 0; {
			cut := min(len(plane), maxPlane)
			out = append(out, plane[:cut])
			plane = plane[cut:]
		}
	}
	if rest := block[n*width:]; len(rest) > 0 {
		out = append(out, rest)
	}
	return out
}

func (e *encoder) plane(mode byte, p []byte) {
	coded, mode := e.code(mode, p)
	e.coded = append(e.coded, mode)
	e.coded = binary.LittleEndian.AppendUint32(e.coded, uint32(len(coded)))
	e.coded = append(e.coded, coded...)
}

func (e *encoder) code(mode byte, p []byte) ([]byte, byte) {
	if bytes.Count(p, p[:1]) == len(p) {
		return p[:1], modeFill
	}
	var coded []byte
	if mode == modeZstd {
		coded = e.zstd.EncodeAll(p, nil)
	} else {
		var err error
		if coded, _, err = huff0.Compress4X(p, e.huff); err != nil {
			return p, modeRaw // incompressible, or too short
		}
	}
	if len(coded) >= len(p) {
		return p, modeRaw
	}
	return coded, mode
}
