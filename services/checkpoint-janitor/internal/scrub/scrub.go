// Package scrub reads every catalogued object back and compares it with its
// digest: what nobody reads rots unseen. New objects are read in the next round,
// all others within a month. A bad one is kept as evidence and never repaired in
// place; its checkpoint stops counting as one of the best.
package scrub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
)

const (
	// Cycle is the time in which every object is read once.
	Cycle = 30 * 24 * time.Hour
	// maxNew bounds what one round reads of objects that were never read.
	maxNew = 4 << 30
	// minShare keeps a small store, or a short interval, from reading nothing.
	minShare = 64 << 20
)

// Check is the last reading of one content.
type Check struct {
	Digest, Key string
	Bytes       int64
	Corrupt     bool
	Time        time.Time
}

// Store remembers readings.
type Store interface {
	Checks(ctx context.Context) (map[string]Check, error)
	SaveCheck(ctx context.Context, c Check) error
}

// Bucket is read.
type Bucket interface {
	List(ctx context.Context, prefix string) iter.Seq2[objectstore.Object, error]
	Get(ctx context.Context, key, digest string) (io.ReadCloser, error)
}

// Result is what one round found.
type Result struct {
	Objects int
	Bytes   int64
	// Corrupt are the contents found bad in this round.
	Corrupt []Check
	// Oldest is the last reading of the object that waits longest; zero when an
	// object was never read.
	Oldest time.Time
}

// Scrubber reads objects back.
type Scrubber struct {
	Bucket Bucket
	Store  Store
	// Wanted lists the contents that the catalogue needs: nobody cares whether
	// a foreign object is as it was.
	Wanted func(ctx context.Context) (map[string]bool, error)
}

type candidate struct {
	key, digest string
	bytes       int64
	last        Check
}

// Round reads what is new and the share of the rest that is due after elapsed.
func (s *Scrubber) Round(ctx context.Context, now time.Time, elapsed time.Duration) (Result, error) {
	todo, total, err := s.candidates(ctx)
	if err != nil {
		return Result{}, err
	}
	share := max(minShare, int64(float64(total)*elapsed.Seconds()/Cycle.Seconds()))
	fresh := int64(maxNew)
	var r Result
	for _, c := range todo {
		budget := &share
		if c.last.Time.IsZero() {
			budget = &fresh
		}
		if *budget <= 0 {
			r.Oldest = c.last.Time
			return r, nil
		}
		*budget -= c.bytes
		check, read, err := s.read(ctx, c, now)
		if err != nil {
			return r, err
		}
		if !read {
			continue
		}
		if err := s.Store.SaveCheck(ctx, check); err != nil {
			return r, fmt.Errorf("store the reading: %w", err)
		}
		r.Objects++
		r.Bytes += c.bytes
		if check.Corrupt {
			r.Corrupt = append(r.Corrupt, check)
		}
	}
	r.Oldest = now
	return r, nil
}

// candidates lists the wanted objects, the longest unread first.
func (s *Scrubber) candidates(ctx context.Context) ([]candidate, int64, error) {
	wanted, err := s.Wanted(ctx)
	if err != nil {
		return nil, 0, err
	}
	last, err := s.Store.Checks(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("load the readings: %w", err)
	}
	var out []candidate
	var total int64
	for o, err := range s.Bucket.List(ctx, "") {
		if err != nil {
			return nil, 0, fmt.Errorf("list the bucket: %w", err)
		}
		digest, ok := inventory.DigestOf(o.Key)
		if !ok || !wanted[digest] {
			continue
		}
		out = append(out, candidate{o.Key, digest, o.Size, last[digest]})
		total += o.Size
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return a.last.Time.Compare(b.last.Time) })
	return out, total, nil
}

// read reports read = false for an object that went away meanwhile: the sweep
// works while we read.
func (s *Scrubber) read(ctx context.Context, c candidate, now time.Time) (check Check, read bool, err error) {
	check = Check{Digest: c.digest, Key: c.key, Bytes: c.bytes, Time: now}
	body, err := s.Bucket.Get(ctx, c.key, c.digest)
	if err == nil {
		_, err = io.Copy(io.Discard, body)
		if cerr := body.Close(); err == nil {
			err = cerr
		}
	}
	switch {
	case err == nil:
		return check, true, nil
	case errors.Is(err, objectstore.ErrDigestMismatch):
		check.Corrupt = true
		return check, true, nil
	case errors.Is(err, objectstore.ErrNotFound):
		return check, false, nil
	default:
		return check, false, fmt.Errorf("read %s back: %w", c.key, err)
	}
}
