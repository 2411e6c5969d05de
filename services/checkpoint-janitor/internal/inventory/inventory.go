// Package inventory takes stock: the registry's catalogue with what refers to
// each checkpoint, people's holds, and the store's own listing, which is only
// compared and never believed. It also reads and writes inventories as JSON
// lines, the form in which a plan can be replayed anywhere.
package inventory

import (
	"context"
	"fmt"
	"iter"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Catalogue is the registry as the janitor needs it.
type Catalogue interface {
	// List returns every checkpoint that has bytes, and how many the registry
	// says there are.
	List(ctx context.Context) (all []retention.Checkpoint, total int, err error)
}

// Bucket lists the store.
type Bucket interface {
	// List yields every object whose key begins with prefix, and ends after the
	// first error.
	List(ctx context.Context, prefix string) iter.Seq2[objectstore.Object, error]
}

// Holds are people's undos by checkpoint id.
type Holds interface {
	Holds(ctx context.Context, now time.Time) (map[string]retention.Reference, error)
}

// Readings are what reading objects back has found.
type Readings interface {
	// CorruptContents lists the digests of contents that were found bad.
	CorruptContents(ctx context.Context) (map[string]bool, error)
}

// Reader takes stock.
type Reader struct {
	Catalogue Catalogue
	Bucket    Bucket
	Holds     Holds
	Readings  Readings
	// Room says how full the store is, given the bytes in the bucket.
	Room Room
}

// Room says how full a store is that holds the given bytes.
type Room func(bucketBytes int64) (retention.Usage, error)

// FixedRoom is a store of a known capacity that holds nothing but the bucket;
// zero is a store of which nobody knows it.
func FixedRoom(capacityBytes int64) Room {
	return func(bucketBytes int64) (retention.Usage, error) {
		return retention.Usage{UsedBytes: bucketBytes, CapacityBytes: capacityBytes}, nil
	}
}

// DiskRoom is the disk under path, with whatever else lies on it: that is what
// runs full. Bytes reserved for root are no part of it, as in df: the store can
// never have them.
func DiskRoom(path string) Room {
	return func(int64) (retention.Usage, error) {
		var s unix.Statfs_t
		if err := unix.Statfs(path, &s); err != nil {
			return retention.Usage{}, fmt.Errorf("look at the disk of %s: %w", path, err)
		}
		used := int64(s.Blocks-s.Bfree) * s.Bsize
		return retention.Usage{UsedBytes: used, CapacityBytes: used + int64(s.Bavail)*s.Bsize}, nil
	}
}

// Stock is the store at one instant with what the listing said about it.
type Stock struct {
	retention.Inventory
	Bucket retention.Bucket
	// BucketBytes is the size of all objects listed.
	BucketBytes int64
	// Foreign objects have keys that name no content; nobody but their owner
	// may touch them.
	Foreign Leftover
	// Uncatalogued objects name a content that no checkpoint has: run artifacts
	// and leftovers of uploads that were never committed.
	Uncatalogued Leftover
	// Corrupt is how many checkpoints have bytes that are not their digest's.
	Corrupt int
	// Mismatched lists contents whose object has not the catalogued size.
	Mismatched []string
}

// Leftover is a number of objects and their bytes.
type Leftover struct {
	Objects int
	Bytes   int64
}

func (l *Leftover) add(size int64) {
	l.Objects++
	l.Bytes += size
}

// maxNamed bounds lists that are meant for people.
const maxNamed = 20

// Take reads the catalogue and then the bucket. This order matters: an upload
// in between adds an object that is merely unknown yet; the other way round it
// would add a catalogued object that seems missing.
func (r Reader) Take(ctx context.Context, now time.Time) (Stock, error) {
	all, err := r.catalogue(ctx, now)
	if err != nil {
		return Stock{}, err
	}
	expected := map[string]int64{}
	s := Stock{Inventory: retention.Inventory{Checkpoints: all}}
	for _, c := range all {
		if c.State == retention.StateCorrupt {
			s.Corrupt++
		}
		if c.State == retention.StateDeleting || c.State == retention.StateDeleted || c.State == retention.StateUploading {
			continue // their objects may rightly be absent
		}
		for _, f := range c.Files {
			expected[f.Digest] = f.Bytes
		}
	}
	if err := s.compare(ctx, r.Bucket, expected); err != nil {
		return Stock{}, err
	}
	s.Usage, err = r.Room(s.BucketBytes)
	return s, err
}

// Peek reads the catalogue only and takes the bucket's size from the caller: an
// explanation need not list a million objects.
func (r Reader) Peek(ctx context.Context, now time.Time, bucketBytes int64) (retention.Inventory, error) {
	all, err := r.catalogue(ctx, now)
	if err != nil {
		return retention.Inventory{}, err
	}
	room, err := r.Room(bucketBytes)
	return retention.Inventory{Checkpoints: all, Usage: room}, err
}

func (r Reader) catalogue(ctx context.Context, now time.Time) ([]retention.Checkpoint, error) {
	all, total, err := r.Catalogue.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the registry's inventory: %w", err)
	}
	if missing := total - len(all); missing > 0 && float64(missing) > 0.01*float64(total) {
		return nil, fmt.Errorf("the registry says it has %d checkpoints, but listed %d: nothing is planned from half a catalogue", total, len(all))
	}
	holds, err := r.Holds.Holds(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("read the holds: %w", err)
	}
	corrupt, err := r.Readings.CorruptContents(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the findings of the scrub: %w", err)
	}
	for i := range all {
		c := &all[i]
		if hold, ok := holds[c.ID]; ok {
			c.References = append(c.References, hold)
		}
		if c.State == retention.StateLive && slices.ContainsFunc(c.Files, func(f retention.File) bool { return corrupt[f.Digest] }) {
			// The registry learns of it only from an agent that restores; until
			// then it must not take the place of a checkpoint that can be read.
			c.State = retention.StateCorrupt
		}
	}
	return all, nil
}

func (s *Stock) compare(ctx context.Context, bucket Bucket, expected map[string]int64) error {
	present := make(map[string]bool, len(expected))
	for o, err := range bucket.List(ctx, "") {
		if err != nil {
			return fmt.Errorf("list the bucket: %w", err)
		}
		s.Bucket.Listed++
		s.BucketBytes += o.Size
		digest, ok := DigestOf(o.Key)
		want, catalogued := expected[digest]
		switch {
		case !ok:
			s.Foreign.add(o.Size)
		case !catalogued:
			s.Uncatalogued.add(o.Size)
		case o.Size == want:
			present[digest] = true
		case len(s.Mismatched) < maxNamed:
			s.Mismatched = append(s.Mismatched, digest)
		}
	}
	s.Bucket.Catalogued = len(expected)
	s.Bucket.Missing = len(expected) - len(present)
	return nil
}

// contentKey finds the SHA-256 in an object's name. Keys are the registry's to
// make: only the digest in the last part is relied on, not the folders above or
// the generation behind it.
var contentKey = regexp.MustCompile(`(?:^|/)([0-9a-f]{64})(?:\.[0-9]+)?$`)

// DigestOf returns the content digest that a key names.
func DigestOf(key string) (string, bool) {
	m := contentKey.FindStringSubmatch(key)
	if m == nil {
		return "", false
	}
	return m[1], true
}
