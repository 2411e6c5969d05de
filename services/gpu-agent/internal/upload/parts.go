package upload

import (
	"context"
	"errors"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// A file above partsFrom goes up in parts, partsAtOnce at a time. An upload that
// breaks then costs a part, and a restarted agent goes on where the store is.
const (
	partsFrom   = 64 << 20
	partBytes   = 16 << 20
	maxParts    = 10000
	partsAtOnce = 4
)

// partSize is partBytes, or what keeps a huge file below the store's count.
func partSize(size int64) int64 {
	const unit = 1 << 20
	least := (size + maxParts - 1) / maxParts
	return max(partBytes, (least+unit-1)/unit*unit)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// split describes a file's parts with their checksums.
func split(r io.ReaderAt, size int64) ([]lease.Part, error) {
	each := partSize(size)
	var parts []lease.Part
	for at := int64(0); at < size; at += each {
		n := min(each, size-at)
		sum := crc32.New(castagnoli)
		if _, err := io.Copy(sum, io.NewSectionReader(r, at, n)); err != nil {
			return nil, err
		}
		parts = append(parts, lease.Part{Number: uint32(len(parts) + 1), Size: n, CRC32C: sum.Sum32()})
	}
	return parts, nil
}

// putParts sends what the store lacks until it has the whole file. It asks the
// store, not its own memory, which parts those are.
func (p *Pipeline) putParts(ctx context.Context, file lease.File, r io.ReaderAt) error {
	parts, err := split(r, file.Size)
	if err != nil {
		return err
	}
	for {
		missing, complete, err := p.registry.PrepareParts(ctx, p.key, file, parts)
		switch {
		case err != nil:
			return err
		case complete:
			return nil
		case len(missing) == 0:
			return errors.New("the store neither has the file nor lacks a part of it")
		}
		if err := p.putMissing(ctx, file, r, parts, missing); err != nil {
			return err
		}
	}
}

func (p *Pipeline) putMissing(ctx context.Context, file lease.File, r io.ReaderAt, parts []lease.Part, missing map[uint32]lease.Transfer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		room  = make(chan struct{}, partsAtOnce)
	)
	for _, number := range slices.Sorted(maps.Keys(missing)) {
		if number < 1 || int(number) > len(parts) {
			continue // the next answer decides
		}
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		t, part := missing[number], parts[number-1]
		t.SHA256, t.Size = file.SHA256, part.Size
		wg.Go(func() {
			defer func() { <-room }()
			at := int64(number-1) * partSize(file.Size)
			if err := p.registry.Put(ctx, t, io.NewSectionReader(r, at, part.Size)); err != nil {
				mu.Lock()
				if first == nil {
					first = err
				}
				mu.Unlock()
				cancel()
			}
		})
	}
	wg.Wait()
	if first != nil {
		return first
	}
	return ctx.Err()
}
