package spool

import (
	"errors"
	"time"
)

// commitLoop makes pending records durable, all that wait at a time: while one
// sync runs the next group gathers, so the rate follows the disk.
func (s *Spool) commitLoop() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closed {
			changed := s.changed
			s.mu.Unlock()
			<-changed
			s.mu.Lock()
		}
		group := s.pending
		closing := s.closed
		s.mu.Unlock()
		if len(group) == 0 {
			return
		}
		err := s.commit(group)
		s.mu.Lock()
		if err == nil {
			s.publish(group)
		} else {
			s.failure = err.Error()
		}
		s.wake()
		s.mu.Unlock()
		if err != nil {
			if closing || !s.pause() {
				return
			}
		}
	}
}

// commit writes and syncs a group. After a failure the file is given up: what
// it holds beyond the last good sync is unknown, and the group is written again
// to a new one.
func (s *Spool) commit(group []Record) error {
	if s.file == nil || s.active.bytes >= s.opts.SegmentBytes {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	var buf []byte
	for _, r := range group {
		buf = appendRecord(buf, r)
	}
	_, err := s.file.Write(buf)
	if err == nil {
		err = s.file.Sync()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		err = errors.Join(err, s.file.Close())
		s.file = nil
		s.segments = append(s.segments, s.active)
		s.recent = nil
		return err
	}
	s.active.bytes += int64(len(buf))
	return nil
}

func (s *Spool) publish(group []Record) {
	last := group[len(group)-1].Sequence
	s.durable, s.active.last = last, last
	for _, r := range group {
		s.marked = max(s.marked, r.Source)
		s.waiting -= int64(recordHeader + len(r.Payload))
	}
	s.recent = append(s.recent, group...)
	s.pending = append([]Record(nil), s.pending[len(group):]...)
	s.failure = ""
}

// pause waits between two tries; false when the spool was closed meanwhile.
func (s *Spool) pause() bool {
	timer := time.NewTimer(s.opts.Retry)
	defer timer.Stop()
	for {
		s.mu.Lock()
		closed, changed := s.closed, s.changed
		s.mu.Unlock()
		if closed {
			return false
		}
		select {
		case <-timer.C:
			return true
		case <-changed:
		}
	}
}
