package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// segment is one file; first and last are its records' sequences, last < first
// when it has none.
type segment struct {
	index       uint64
	first, last uint64
	bytes       int64
}

func segmentName(index uint64) string { return fmt.Sprintf("%012d.seg", index) }

// damageJump is more records than a spool can hold.
const damageJump = 1 << 24

// recovered is what a spool's directory held.
type recovered struct {
	segments         []segment
	sequence, source uint64
	nextIndex        uint64
	// damage names what could not be read although it may have been acknowledged.
	damage []string
}

// recoverDir reads every segment in order. A torn tail is the normal end of a
// segment whose last commit was cut; it held nothing acknowledged.
func recoverDir(fsys disk.FS, dir string) (*recovered, error) {
	names, err := fsys.List(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	rec := &recovered{nextIndex: 1}
	begun := false
	for _, name := range names {
		stem, ok := strings.CutSuffix(name, ".seg")
		if !ok {
			continue
		}
		index, err := strconv.ParseUint(stem, 10, 64)
		if err != nil {
			continue
		}
		rec.nextIndex = max(rec.nextIndex, index+1)
		raw, err := fsys.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		base, source, ok := parseHeader(raw)
		if !ok {
			// A segment is used only after its header is durable, so one with a
			// torn header is empty, unless whole records follow.
			if resync(raw, rec.sequence) {
				rec.damage = append(rec.damage, fmt.Sprintf("%s: the header is damaged before whole records", name))
			}
			rec.segments = append(rec.segments, segment{index: index, first: 1, last: 0, bytes: int64(len(raw))})
			continue
		}
		if !begun {
			rec.sequence, rec.source, begun = base, source, true
		} else if base > rec.sequence {
			rec.damage = append(rec.damage, fmt.Sprintf("%s: records %d to %d before it are lost", name, rec.sequence+1, base))
			rec.sequence, rec.source = base, max(rec.source, source)
		}
		seg := segment{index: index, first: rec.sequence + 1, last: rec.sequence, bytes: int64(len(raw))}
		rest := raw[segmentHeader:]
		for len(rest) > 0 {
			r, size, ok := parseRecord(rest)
			if !ok || r.Sequence > rec.sequence+1 {
				if resync(rest, rec.sequence) {
					rec.damage = append(rec.damage, fmt.Sprintf("%s: damaged at byte %d", name, len(raw)-len(rest)))
				}
				break
			}
			rest = rest[size:]
			if r.Sequence <= rec.sequence {
				continue // written again after a failed sync
			}
			rec.sequence, rec.source = r.Sequence, max(rec.source, r.Source)
			seg.last = r.Sequence
		}
		rec.segments = append(rec.segments, seg)
	}
	if len(rec.damage) > 0 {
		// The registry may already have sequences that were lost here: taking
		// them again for other records would have it drop those as repeats.
		// Gaps are allowed, so jump far over them.
		rec.sequence += damageJump
	}
	return rec, nil
}

// load reads a sealed segment's records with a sequence in (after, last].
func load(fsys disk.FS, dir string, seg segment, after uint64) ([]Record, error) {
	raw, err := fsys.ReadFile(filepath.Join(dir, segmentName(seg.index)))
	if err != nil {
		return nil, err
	}
	if _, _, ok := parseHeader(raw); !ok {
		return nil, &disk.CorruptError{Path: segmentName(seg.index), Detail: "the header is damaged"}
	}
	var records []Record
	rest := raw[segmentHeader:]
	next := seg.first
	for next <= seg.last {
		r, size, ok := parseRecord(rest)
		if !ok {
			return records, &disk.CorruptError{Path: segmentName(seg.index), Detail: fmt.Sprintf("record %d is damaged", next)}
		}
		rest = rest[size:]
		if r.Sequence != next {
			continue
		}
		next++
		if r.Sequence > after {
			records = append(records, r)
		}
	}
	return records, nil
}
