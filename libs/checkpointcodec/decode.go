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

	"github.com/klauspost/compress/huff0"
	"github.com/klauspost/compress/zstd"
)

type decoder struct {
	in    *bufio.Reader
	crc   uint32
	width int
	delta bool
	huff  *huff0.Scratch
	zstd  *zstd.Decoder
	coded []byte
}

// Decode unpacks src into dst. Bytes that have gone to dst are to be thrown away
// when it returns an error: only at the end is it known that they are right.
func Decode(dst io.Writer, src io.Reader, base io.ReadSeeker) (Stats, error) {
	counted := &counter{r: src}
	d := &decoder{in: bufio.NewReaderSize(counted, 64<<10), huff: &huff0.Scratch{}, coded: make([]byte, blockSize)}
	defer d.close()
	if err := d.header(base); err != nil {
		return Stats{}, err
	}
	sum := sha256.New()
	var raw uint64
	planes, block, baseBlock := make([]byte, blockSize), make([]byte, blockSize), make([]byte, blockSize)
	for {
		n, err := d.uint32()
		if err != nil {
			return Stats{}, err
		}
		if n == 0 {
			break
		}
		alone := n&flagAlone != 0
		if n &^= flagAlone; n == 0 || n > blockSize || alone && !d.delta {
			return Stats{}, fmt.Errorf("%w: a block of %d bytes", ErrFormat, n)
		}
		if err := d.block(block[:n], planes[:n]); err != nil {
			return Stats{}, err
		}
		if d.delta {
			if err := readBase(base, baseBlock[:n]); err != nil {
				return Stats{}, err
			}
			if !alone {
				add(block[:n], baseBlock[:n], d.width)
			}
		}
		sum.Write(block[:n])
		raw += uint64(n)
		if _, err := dst.Write(block[:n]); err != nil {
			return Stats{}, err
		}
	}
	var trailer [8 + sha256.Size]byte
	if err := d.read(trailer[:]); err != nil {
		return Stats{}, err
	}
	if binary.LittleEndian.Uint64(trailer[:]) != raw || !bytes.Equal(trailer[8:], sum.Sum(nil)) {
		return Stats{}, ErrDigest
	}
	want := d.crc
	if got, err := d.uint32(); err != nil || got != want {
		return Stats{}, errors.Join(ErrDigest, err)
	}
	if _, err := d.in.ReadByte(); err != io.EOF {
		return Stats{}, fmt.Errorf("%w: bytes behind its end", ErrFormat)
	}
	return Stats{Raw: int64(raw), Packed: counted.n, Width: d.width, SHA256: hex.EncodeToString(trailer[8:])}, nil
}

// Base reads the digest of the content that a packed file is the difference to; nil when it
// stands alone. It reads no more than the beginning, and checks no more.
func Base(src io.Reader) ([]byte, error) {
	d := &decoder{in: bufio.NewReaderSize(src, 64)}
	if err := d.settings(); err != nil || !d.delta {
		return nil, err
	}
	base := make([]byte, sha256.Size)
	err := d.read(base)
	return base, err
}

func (d *decoder) close() {
	if d.zstd != nil {
		d.zstd.Close()
	}
}

// decodeText opens the zstd decoder when the first block needs it: few files do.
func (d *decoder) decodeText(coded, into []byte) ([]byte, error) {
	if d.zstd == nil {
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4*blockSize))
		if err != nil {
			return nil, err
		}
		d.zstd = z
	}
	return d.zstd.DecodeAll(coded, into)
}

type counter struct {
	r io.Reader
	n int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	return n, err
}

func (d *decoder) read(b []byte) error {
	if _, err := io.ReadFull(d.in, b); err != nil {
		return fmt.Errorf("%w: it is cut: %w", ErrFormat, err)
	}
	d.crc = crc32.Update(d.crc, castagnoli, b)
	return nil
}

func (d *decoder) uint32() (uint32, error) {
	var b [4]byte
	err := d.read(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

func (d *decoder) settings() error {
	var h [8]byte
	if err := d.read(h[:]); err != nil {
		return err
	}
	d.width, d.delta = int(h[5]), h[6] == flagDelta
	switch {
	case string(h[:4]) != magic:
		return fmt.Errorf("%w: it does not begin with %s", ErrFormat, magic)
	case h[4] < 1 || h[4] > version:
		return fmt.Errorf("%w: version %d, this program reads %d", ErrFormat, h[4], version)
	case d.width != 1 && d.width != 2 && d.width != 4 && d.width != 8, h[6] > flagDelta, h[7] != 0:
		return fmt.Errorf("%w: unknown settings", ErrFormat)
	}
	return nil
}

func (d *decoder) header(base io.ReadSeeker) error {
	if err := d.settings(); err != nil || !d.delta {
		return err
	}
	want := make([]byte, sha256.Size)
	if err := d.read(want); err != nil {
		return err
	}
	if base == nil {
		return fmt.Errorf("%w: it is the difference to %x", ErrBase, want)
	}
	got, err := digestOf(base)
	if err != nil {
		return fmt.Errorf("read the base: %w", err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("%w: it is the difference to %x, this is %x", ErrBase, want, got)
	}
	return nil
}

func (d *decoder) block(dst, planes []byte) error {
	if d.width == 1 {
		return d.plane(dst)
	}
	for _, p := range planesOf(planes, d.width) {
		if err := d.plane(p); err != nil {
			return err
		}
	}
	join(dst, planes, d.width)
	return nil
}

// plane fills p exactly, or fails.
func (d *decoder) plane(p []byte) error {
	var head [5]byte
	if err := d.read(head[:]); err != nil {
		return err
	}
	mode, n := head[0], binary.LittleEndian.Uint32(head[1:])
	if n > uint32(len(p)) || n == 0 {
		return fmt.Errorf("%w: a plane of %d bytes for %d", ErrFormat, n, len(p))
	}
	coded := d.coded[:n]
	if err := d.read(coded); err != nil {
		return err
	}
	switch mode {
	case modeRaw:
		if len(coded) != len(p) {
			return fmt.Errorf("%w: a raw plane of %d bytes for %d", ErrFormat, len(coded), len(p))
		}
		copy(p, coded)
	case modeFill:
		for i := range p {
			p[i] = coded[0]
		}
	case modeHuff:
		return d.huffman(p, coded)
	case modeZstd:
		out, err := d.decodeText(coded, p[:0:len(p)])
		if err != nil || len(out) != len(p) || &out[0] != &p[0] {
			return fmt.Errorf("%w: a plane does not decode", ErrFormat)
		}
	default:
		return fmt.Errorf("%w: plane mode %d", ErrFormat, mode)
	}
	return nil
}

func (d *decoder) huffman(p, coded []byte) error {
	s, rest, err := huff0.ReadTable(coded, d.huff)
	if err != nil {
		return fmt.Errorf("%w: a plane's table does not decode", ErrFormat)
	}
	d.huff = s
	out, err := s.Decoder().Decompress4X(p[:0:len(p)], rest)
	if err != nil || len(out) != len(p) {
		return fmt.Errorf("%w: a plane does not decode", ErrFormat)
	}
	if &out[0] != &p[0] {
		copy(p, out)
	}
	return nil
}
