package disk

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// bulkSize is from where on a file of known size is written around the page cache.
const bulkSize = 4 << 20

// A bulk file's blocks: one fills while the other is on its way to the disk.
const (
	blockSize = 1 << 20
	blocks    = 2
)

// bulkFile writes a large file with O_DIRECT. Through the page cache its bytes would
// reach the disk in bursts of the kernel's choosing, and the fsync of a few hundred
// bytes of metrics beside it waited up to a tenth of a second for them; easing each
// few megabytes out by sync_file_range still left a third of that.
type bulkFile struct {
	file   *os.File
	memory []byte
	fill   []byte      // the block that is being filled
	spare  chan []byte // empty blocks
	full   chan []byte // on their way to the disk
	done   chan struct{}
	failed chan struct{} // closed once err is set
	err    error
	offset int64 // of the goroutine that writes, or ours once that is idle
}

// room is sized for what an open call returned.
func room(f *os.File, err error, size int64) (File, error) {
	if err != nil {
		return nil, err
	}
	file, err := sized(f, size)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return file, nil
}

// sized makes an empty open file one for size bytes. The room is taken at once: a full
// disk is known before the bytes are sent.
func sized(f *os.File, size int64) (File, error) {
	fd := int(f.Fd())
	if size >= bulkSize {
		err := unix.Fallocate(fd, 0, 0, size)
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EFBIG) {
			return nil, fmt.Errorf("making room for %d bytes: %w", size, err)
		}
	}
	if size < bulkSize || direct(fd, true) != nil {
		return &osFile{File: f}, nil
	}
	// Mapped, because that is aligned and goes back to the system with the file.
	memory, err := unix.Mmap(-1, 0, blocks*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, errors.Join(err, direct(fd, false))
	}
	b := &bulkFile{
		file: f, memory: memory, fill: memory[:0:blockSize], spare: make(chan []byte, blocks), full: make(chan []byte, blocks),
		done: make(chan struct{}), failed: make(chan struct{}),
	}
	for i := 1; i < blocks; i++ {
		b.spare <- memory[i*blockSize : i*blockSize : (i+1)*blockSize]
	}
	go b.write()
	return b, nil
}

// direct switches the way around the page cache; file systems without one refuse.
func direct(fd int, on bool) error {
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return err
	}
	flags &^= unix.O_DIRECT
	if on {
		flags |= unix.O_DIRECT
	}
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETFL, flags)
	return err
}

// write brings full blocks to the disk.
func (b *bulkFile) write() {
	defer close(b.done)
	for block := range b.full {
		if b.err == nil {
			if err := b.put(block); err != nil {
				b.err = err
				close(b.failed)
			}
		}
		b.spare <- block[:0]
	}
}

func (b *bulkFile) put(block []byte) error {
	n, err := b.file.WriteAt(block, b.offset)
	if errors.Is(err, unix.EINVAL) {
		// It took the flag and not the write: some network file systems do.
		if err = direct(int(b.file.Fd()), false); err == nil {
			n, err = b.file.WriteAt(block, b.offset)
		}
	}
	b.offset += int64(n)
	return err
}

// Write implements File; an error may be that of an earlier write.
func (b *bulkFile) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n := copy(b.fill[len(b.fill):blockSize], p)
		b.fill = b.fill[:len(b.fill)+n]
		p, written = p[n:], written+n
		if len(b.fill) < blockSize {
			continue
		}
		b.full <- b.fill
		b.fill = <-b.spare
		select {
		case <-b.failed:
			return written, b.err
		default:
		}
	}
	return written, nil
}

// Ease implements File: nothing waits in the kernel.
func (b *bulkFile) Ease() error { return nil }

// Sync implements File. It is the last call before Close.
func (b *bulkFile) Sync() error {
	var idle [blocks - 1][]byte
	for i := range idle {
		idle[i] = <-b.spare
	}
	for _, block := range idle { // with all blocks back the disk's goroutine was idle
		b.spare <- block
	}
	select {
	case <-b.failed:
		return b.err
	default:
	}
	if len(b.fill) > 0 {
		// The end is no whole number of the disk's sectors.
		if err := direct(int(b.file.Fd()), false); err != nil {
			return err
		}
		if err := b.put(b.fill); err != nil {
			return err
		}
		b.fill = b.fill[:0]
	}
	return b.file.Sync()
}

// Close implements File.
func (b *bulkFile) Close() error {
	close(b.full)
	<-b.done
	return errors.Join(b.file.Close(), unix.Munmap(b.memory))
}
