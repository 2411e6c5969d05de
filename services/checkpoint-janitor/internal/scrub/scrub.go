// Package scrub reads every catalogued object back and compares it with its
// digest: what nobody reads rots unseen. New objects are read in the next round,
// all others within a month. A bad one is kept as evidence and never repaired in
// place: its content is taken from the other tier, or its checkpoints are quarantined.
package scrub

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	// ForgetCheck makes a content unread again.
	ForgetCheck(ctx context.Context, digest string) error
}

// Bucket is read; it serves both tiers.
type Bucket interface {
	Get(ctx context.Context, key, digest string) (io.ReadCloser, error)
}

// Catalogue knows what is to be read, and hears what was found.
type Catalogue interface {
	Objects(ctx context.Context) ([]inventory.Object, error)
	ReportBad(ctx context.Context, key, detail string) (repaired bool, outcome string, err error)
}

// Finding is an object that is not what it should be.
type Finding struct {
	Check
	// Missing says that there is no object at all.
	Missing bool
	// Repaired says that its content is read from another copy now; otherwise its
	// checkpoints are corrupt.
	Repaired bool
	Outcome  string
}

// Result is what one round found.
type Result struct {
	Objects int
	Bytes   int64
	// Bad are the objects found bad in this round, or tried again to repair.
	Bad []Finding
	// Oldest is the last reading of the object that waits longest; zero when an
	// object was never read.
	Oldest time.Time
}

// Scrubber reads objects back.
type Scrubber struct {
	Bucket    Bucket
	Store     Store
	Catalogue Catalogue
}

type candidate struct {
	key, digest string
	bytes       int64
	last        Check
}

const (
	// smallMissing objects of a round may be missing without a doubt about the store itself.
	smallMissing = 3
	// maxMissing is the share of a round beyond which it is the store that is missing.
	maxMissing = 0.01
)

// Round reads what is new and the share of the rest that is due after elapsed, and
// reports what is bad: repaired from the other tier where that has it, else quarantined.
func (s *Scrubber) Round(ctx context.Context, now time.Time, elapsed time.Duration) (Result, error) {
	objects, err := s.Catalogue.Objects(ctx)
	if err != nil {
		return Result{}, fmt.Errorf("list the registry's objects: %w", err)
	}
	todo, total, err := s.candidates(ctx, objects)
	if err != nil {
		return Result{}, err
	}
	var r Result
	r.Oldest = now
	var missing []Check
	share := max(minShare, int64(float64(total)*elapsed.Seconds()/Cycle.Seconds()))
	fresh := int64(maxNew)
	for _, c := range todo {
		budget := &share
		if c.last.Time.IsZero() {
			budget = &fresh
		}
		if *budget <= 0 {
			r.Oldest = c.last.Time
			break
		}
		*budget -= c.bytes
		check, there, err := s.read(ctx, c, now)
		if err != nil {
			return r, err
		}
		if !there {
			missing = append(missing, check)
			continue
		}
		if err := s.Store.SaveCheck(ctx, check); err != nil {
			return r, fmt.Errorf("store the reading: %w", err)
		}
		r.Objects++
		r.Bytes += c.bytes
		if check.Corrupt {
			if err := s.report(ctx, &r, Finding{Check: check}, "its bytes do not match their digest"); err != nil {
				return r, err
			}
		}
	}
	if err := s.reportMissing(ctx, &r, missing); err != nil {
		return r, err
	}
	return r, s.retry(ctx, &r, objects)
}

func (s *Scrubber) report(ctx context.Context, r *Result, f Finding, detail string) error {
	var err error
	if f.Repaired, f.Outcome, err = s.Catalogue.ReportBad(ctx, f.Key, detail); err != nil {
		return fmt.Errorf("report %s: %w", f.Key, err)
	}
	r.Bad = append(r.Bad, f)
	if f.Repaired {
		// The content is good again, in another object.
		if err := s.Store.ForgetCheck(ctx, f.Digest); err != nil {
			return fmt.Errorf("forget the reading: %w", err)
		}
	}
	return nil
}

// reportMissing looks again first: a sweep works while we read. A store that has lost
// much at once is rather the wrong store, or half of it: nothing is condemned by that.
func (s *Scrubber) reportMissing(ctx context.Context, r *Result, missing []Check) error {
	if len(missing) == 0 {
		return nil
	}
	if n := len(missing); n > smallMissing && float64(n) > maxMissing*float64(n+r.Objects) {
		return fmt.Errorf("%d of %d objects are missing: nothing is reported to the registry; is it the right bucket?", n, n+r.Objects)
	}
	objects, err := s.Catalogue.Objects(ctx)
	if err != nil {
		return fmt.Errorf("list the registry's objects: %w", err)
	}
	wanted := map[string]bool{}
	for _, o := range objects {
		wanted[o.Key] = o.Proven && o.Holders > 0
	}
	for _, c := range missing {
		if !wanted[c.Key] {
			continue
		}
		if err := s.report(ctx, r, Finding{Check: c, Missing: true}, "it is missing from the store"); err != nil {
			return err
		}
	}
	return nil
}

// maxRetries bounds how many quarantined objects a round tries to repair once more.
const maxRetries = 50

// retry asks again for what was found bad before, or by a reader: another copy may have
// come since.
func (s *Scrubber) retry(ctx context.Context, r *Result, objects []inventory.Object) error {
	n := 0
	for _, o := range objects {
		if !o.Corrupt || o.Cold || o.Holders == 0 {
			continue
		}
		if n++; n > maxRetries {
			return nil
		}
		f := Finding{Check: Check{Digest: o.ObjectSHA256, Key: o.Key, Bytes: o.Bytes, Corrupt: true}}
		if err := s.report(ctx, r, f, "it was found bad before"); err != nil {
			return err
		}
	}
	return nil
}

// candidates lists the objects that something needs, the longest unread first. What
// nothing needs may be as it likes.
func (s *Scrubber) candidates(ctx context.Context, objects []inventory.Object) ([]candidate, int64, error) {
	last, err := s.Store.Checks(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("load the readings: %w", err)
	}
	var out []candidate
	var total int64
	for _, o := range objects {
		if !o.Proven || o.Holders == 0 || o.ObjectSHA256 == "" {
			continue
		}
		out = append(out, candidate{o.Key, o.ObjectSHA256, o.Bytes, last[o.ObjectSHA256]})
		total += o.Bytes
	}
	slices.SortStableFunc(out, func(a, b candidate) int { return a.last.Time.Compare(b.last.Time) })
	return out, total, nil
}

// read reports there = false for an object that is not there.
func (s *Scrubber) read(ctx context.Context, c candidate, now time.Time) (check Check, there bool, err error) {
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
