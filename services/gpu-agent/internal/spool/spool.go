// Package spool is an attempt's durable queue between its trainer and the
// registry. Records are appended by group commit: all that wait are written and
// synced together, and only then may the trainer be told. The registry's
// acknowledgement frees them.
//
// One spool per attempt, not one per host: back-pressure, a full quota or a
// damaged file then concern a single trainer. The price is one fsync per
// attempt and commit.
package spool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
)

// Options bound a spool. Zero values mean the defaults in parentheses.
type Options struct {
	// MaxBytes on disk before Append waits (256 MiB).
	MaxBytes int64
	// MaxPending bytes in memory before Append waits (4 MiB).
	MaxPending int64
	// SegmentBytes is when a new file begins (1 MiB).
	SegmentBytes int64
	// Retry is the pause after a failed write or sync (500 ms).
	Retry time.Duration
}

func (o Options) withDefaults() Options {
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.MaxPending == 0 {
		o.MaxPending = 4 << 20
	}
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 1 << 20
	}
	if o.Retry == 0 {
		o.Retry = 500 * time.Millisecond
	}
	return o
}

// ErrClosed is returned after Close.
var ErrClosed = errors.New("the spool is closed")

// Stats describes a spool at one moment.
type Stats struct {
	// Bytes on disk and waiting in memory.
	Bytes, Pending int64
	// Records that the registry has not acknowledged.
	Records uint64
	// Oldest is when the oldest of them was appended, to a second; zero means none.
	Oldest time.Time
	// Error of the last write, while nothing could be made durable since.
	Error string
	// Damage found at Open.
	Damage []string
}

// mark remembers when a sequence was appended, once a second at most.
type mark struct {
	sequence uint64
	at       time.Time
}

// maxMarks bounds the memory of a long outage; beyond it the age stays that of
// the oldest mark, which is the one that matters.
const maxMarks = 4096

// Spool is safe for concurrent use.
type Spool struct {
	fsys disk.FS
	dir  string
	opts Options

	mu       sync.Mutex
	changed  chan struct{} // closed and replaced at every change
	closed   bool
	segments []segment // sealed, oldest first
	active   segment
	recent   []Record // durable records of the active segment
	pending  []Record
	waiting  int64 // bytes of pending
	sequence uint64
	source   uint64
	durable  uint64 // highest durable sequence
	marked   uint64 // highest durable source
	acked    uint64
	marks    []mark
	failure  string
	damage   []string

	file disk.File // owned by the committer
	done chan struct{}
}

// Open recovers the spool in dir, or begins one, and starts its committer.
func Open(fsys disk.FS, dir string, opts Options) (*Spool, error) {
	if err := fsys.MkdirAll(dir); err != nil {
		return nil, err
	}
	rec, err := recoverDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{
		fsys: fsys, dir: dir, opts: opts.withDefaults(), changed: make(chan struct{}), done: make(chan struct{}),
		segments: rec.segments, sequence: rec.sequence, source: rec.source, durable: rec.sequence, marked: rec.source,
		damage: rec.damage, active: segment{index: rec.nextIndex - 1},
	}
	s.acked = rec.sequence
	for _, seg := range rec.segments {
		if seg.last >= seg.first {
			s.acked = seg.first - 1
			s.marks = []mark{{seg.first, time.Now()}}
			break
		}
	}
	// A new segment at every start: a torn tail is never written behind.
	if err := s.rotate(); err != nil {
		return nil, err
	}
	s.remove(s.releasable())
	go s.commitLoop()
	return s, nil
}

// rotate begins a new active segment whose header is durable.
func (s *Spool) rotate() error {
	s.mu.Lock()
	index, sequence, source := s.active.index+1, s.durable, s.marked
	s.mu.Unlock()
	f, err := s.fsys.Create(filepath.Join(s.dir, segmentName(index)))
	if err != nil {
		return err
	}
	if _, err = f.Write(header(index, sequence, source)); err == nil {
		if err = f.Sync(); err == nil {
			err = s.fsys.SyncDir(s.dir)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
		s.segments = append(s.segments, s.active)
	}
	s.recent = nil
	s.active = segment{index: index, first: sequence + 1, last: sequence, bytes: int64(segmentHeader)}
	if err != nil {
		// Its index is used up; the file, if there is one, holds no record.
		s.segments = append(s.segments, segment{index: index, first: 1, last: 0, bytes: int64(segmentHeader)})
		return errors.Join(err, f.Close())
	}
	s.file = f
	return nil
}

func (s *Spool) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Append adds a record and returns its sequence before it is durable; WaitDurable
// tells when it is. It waits while the spool is full: that is the back-pressure.
func (s *Spool) Append(ctx context.Context, source uint64, kind Kind, payload []byte) (uint64, error) {
	if len(payload) > MaxPayload {
		return 0, fmt.Errorf("a record of %d bytes is over the limit of %d", len(payload), MaxPayload)
	}
	size := int64(recordHeader + len(payload))
	s.mu.Lock()
	for !s.closed && s.waiting > 0 && s.waiting+size > s.opts.MaxPending || !s.closed && s.used() > 0 && s.used()+size > s.opts.MaxBytes {
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	s.sequence++
	s.source = max(s.source, source)
	s.pending = append(s.pending, Record{Sequence: s.sequence, Source: source, Kind: kind, Payload: payload})
	s.waiting += size
	if now := time.Now(); len(s.marks) == 0 || len(s.marks) < maxMarks && now.Sub(s.marks[len(s.marks)-1].at) >= time.Second {
		s.marks = append(s.marks, mark{s.sequence, now})
	}
	s.wake()
	return s.sequence, nil
}

// used counts what unacknowledged records occupy, so that an empty spool always
// takes one record.
func (s *Spool) used() int64 {
	if s.acked == s.sequence {
		return 0
	}
	total := s.active.bytes + s.waiting
	for _, seg := range s.segments {
		total += seg.bytes
	}
	return total
}

// Sequence returns the last sequence given out, in all of the spool's life.
func (s *Spool) Sequence() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sequence
}

// Source returns the highest source sequence appended, durable or not.
func (s *Spool) Source() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source
}

// DurableSource returns the highest source sequence that is durable.
func (s *Spool) DurableSource() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.marked
}

// WaitDurable waits until the durable source sequence is over after, and returns it.
func (s *Spool) WaitDurable(ctx context.Context, after uint64) (uint64, error) {
	return wait(ctx, s, func() (uint64, bool) { return s.marked, s.marked > after })
}

// Flush waits until all that was appended before is durable.
func (s *Spool) Flush(ctx context.Context) error {
	s.mu.Lock()
	target := s.sequence
	s.mu.Unlock()
	_, err := wait(ctx, s, func() (uint64, bool) { return s.durable, s.durable >= target })
	return err
}

// WaitDrained waits until the registry has acknowledged all that was appended.
func (s *Spool) WaitDrained(ctx context.Context) error {
	_, err := wait(ctx, s, func() (uint64, bool) { return s.acked, s.acked >= s.sequence })
	return err
}

func wait(ctx context.Context, s *Spool, reached func() (uint64, bool)) (uint64, error) {
	s.mu.Lock()
	for {
		value, ok := reached()
		closed, changed := s.closed, s.changed
		s.mu.Unlock()
		switch {
		case ok:
			return value, nil
		case closed:
			return 0, ErrClosed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		s.mu.Lock()
	}
}

// Next returns durable records after a sequence, oldest first, at least one and
// about maxBytes at most; it waits for the first. Records that the registry has
// acknowledged, or that damage took, are not among them.
func (s *Spool) Next(ctx context.Context, after uint64, maxBytes int) ([]Record, error) {
	after, err := wait(ctx, s, func() (uint64, bool) { return max(after, s.acked), s.durable > max(after, s.acked) })
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	var records []Record
	for _, r := range s.recent {
		if r.Sequence > after {
			records = append(records, r)
		}
	}
	var from *segment
	if len(records) == 0 || records[0].Sequence > after+1 {
		for i := range s.segments {
			if seg := s.segments[i]; seg.last >= seg.first && seg.last > after {
				from = &seg
				break
			}
		}
	}
	s.mu.Unlock()
	if from != nil {
		loaded, err := load(s.fsys, s.dir, *from, after)
		if err != nil {
			return nil, err
		}
		records = loaded
	}
	size := 0
	for i, r := range records {
		size += len(r.Payload)
		if i > 0 && size > maxBytes {
			return records[:i], nil
		}
	}
	return records, nil
}

// Acked tells that the registry has made everything up to a sequence durable.
// Files that are no longer needed go; if their removal fails or is lost with
// the power, their records are sent again and dropped by the registry.
func (s *Spool) Acked(sequence uint64) {
	s.mu.Lock()
	if sequence <= s.acked {
		s.mu.Unlock()
		return
	}
	s.acked = min(sequence, s.durable)
	keep := 0
	for keep < len(s.recent) && s.recent[keep].Sequence <= s.acked {
		keep++
	}
	s.recent = append([]Record(nil), s.recent[keep:]...)
	// A mark speaks for all records up to the next one.
	for len(s.marks) > 0 && (s.acked == s.sequence || len(s.marks) > 1 && s.marks[1].sequence <= s.acked+1) {
		s.marks = s.marks[1:]
	}
	gone := s.releasable()
	s.wake()
	s.mu.Unlock()
	s.remove(gone)
}

// releasable takes the sealed segments that are wholly acknowledged off the list.
func (s *Spool) releasable() []segment {
	keep := 0
	for keep < len(s.segments) && s.segments[keep].last <= s.acked {
		keep++
	}
	gone := s.segments[:keep:keep]
	s.segments = append([]segment(nil), s.segments[keep:]...)
	return gone
}

// remove deletes segments oldest first, each durably before the next: if a
// later one could vanish while an earlier survives, power loss would look like
// lost records. A file that cannot be removed now goes at the next start.
func (s *Spool) remove(gone []segment) {
	for _, seg := range gone {
		err := s.fsys.Remove(filepath.Join(s.dir, segmentName(seg.index)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
		if err := s.fsys.SyncDir(s.dir); err != nil {
			return
		}
	}
}

// Stats returns the spool's figures.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := Stats{
		Bytes: s.used(), Pending: s.waiting, Records: s.sequence - s.acked, Error: s.failure,
		Damage: append([]string(nil), s.damage...),
	}
	if len(s.marks) > 0 {
		stats.Oldest = s.marks[0].at
	}
	return stats
}

// Close stops the committer after what is pending was tried once. What is not
// durable then was never acknowledged.
func (s *Spool) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.wake()
	s.mu.Unlock()
	<-s.done
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}
