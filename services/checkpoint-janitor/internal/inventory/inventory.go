// Package inventory takes stock: the registry's catalogue with what refers to
// each checkpoint, people's holds, and the store's own listing, which is only
// compared and never believed. It also reads and writes inventories as JSON
// lines, the form in which a plan can be replayed anywhere.
package inventory

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
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
	// Holders reads the checkpoints that hold one of these contents, at least one.
	Holders(ctx context.Context, digests []string) ([]retention.Checkpoint, error)
	// Objects lists every object that the registry knows of, in both tiers.
	Objects(ctx context.Context) ([]Object, error)
	// Leaving lists the keys that the registry has released and nobody has removed.
	Leaving(ctx context.Context) (map[string]bool, error)
}

// Object is one object as the registry has it.
type Object struct {
	Key  string
	Cold bool
	// Proven has bytes that were once compared with their digest; Corrupt was found bad
	// since; Leaving is being deleted; none of them is an upload under way, or given up.
	Proven, Corrupt, Leaving bool
	// SHA256 is the content's digest, ObjectSHA256 that of the object's own bytes.
	SHA256, ObjectSHA256 string
	Bytes                int64
	// Holders are the checkpoints, artifacts and packed copies that need it.
	Holders int
	// Changed is when its row last did.
	Changed time.Time
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
	// Cold is the bucket of the cold tier; nil when it is the same.
	Cold     Bucket
	Holds    Holds
	Readings Readings
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
	// BucketBytes is the size of all objects listed, ColdBytes the part of the cold tier.
	BucketBytes, ColdBytes int64
	// ColdContent is the size of what the cold tier holds, unpacked.
	ColdContent int64
	// Foreign objects have keys that the registry would never make; nobody but their
	// owner may touch them.
	Foreign Leftover
	// Uncatalogued objects are ours, and no checkpoint has them: run artifacts, and
	// leftovers.
	Uncatalogued Leftover
	// Corrupt is how many checkpoints have bytes that are not their digest's.
	Corrupt int
	// Mismatched lists objects that have not the catalogued size.
	Mismatched []string
	// Orphans are objects of ours that nothing refers to.
	Orphans []Orphan
	// Findings are all differences between the catalogue and the bucket, by kind and key.
	Findings []Finding
}

// Orphan is an object of ours that nothing refers to.
type Orphan struct {
	Key     string
	Bytes   int64
	ModTime time.Time
	// Detail says why it is one.
	Detail string
}

// Kind of a finding.
type Kind string

// The kinds, in the order in which they are listed.
const (
	KindCorrupt    Kind = "corrupt"
	KindForeign    Kind = "foreign"
	KindMismatched Kind = "mismatched"
	KindMissing    Kind = "missing"
	KindOrphan     Kind = "orphan"
)

// Finding is one difference between the catalogue and the bucket.
type Finding struct {
	Kind   Kind
	Key    string
	Bytes  int64
	Detail string
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

// settling is how long a row must have stood before its object is missed, and how far
// the registry's clock may be from ours.
const settling = 5 * time.Minute

// Take reads the catalogue, then the bucket, then the registry's objects. This order
// matters: a row is written before its object can be uploaded, so an object that no row
// of the last reading explains is nobody's. The other way round, a row that has just
// changed is not missed in the bucket yet.
func (r Reader) Take(ctx context.Context, now time.Time) (Stock, error) {
	all, err := r.catalogue(ctx, now)
	if err != nil {
		return Stock{}, err
	}
	s := Stock{Inventory: retention.Inventory{Checkpoints: all}}
	for _, c := range all {
		if c.State == retention.StateCorrupt {
			s.Corrupt++
		}
	}
	listed := map[string]objectstore.Object{}
	for _, bucket := range []Bucket{r.Bucket, r.Cold} {
		if bucket == nil {
			continue
		}
		for o, err := range bucket.List(ctx, "") {
			if err != nil {
				return Stock{}, fmt.Errorf("list the bucket: %w", err)
			}
			listed[o.Key] = o
		}
	}
	known, err := r.Catalogue.Objects(ctx)
	if err != nil {
		return Stock{}, fmt.Errorf("list the registry's objects: %w", err)
	}
	leaving, err := r.Catalogue.Leaving(ctx)
	if err != nil {
		return Stock{}, fmt.Errorf("list what is released: %w", err)
	}
	s.compare(listed, known, leaving, now)
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

func (s *Stock) compare(listed map[string]objectstore.Object, known []Object, leaving map[string]bool, now time.Time) {
	found := func(kind Kind, key string, bytes int64, detail string) {
		s.Findings = append(s.Findings, Finding{kind, key, bytes, detail})
	}
	contents := map[string]int64{}
	for _, c := range s.Checkpoints {
		for _, f := range c.Files {
			contents[f.Digest] = f.Bytes
		}
	}
	rows := make(map[string]Object, len(known))
	for _, k := range known {
		rows[k.Key] = k
		if k.Cold && k.Proven {
			s.ColdBytes += k.Bytes
			s.ColdContent += contents[k.SHA256]
		}
		if k.Corrupt && k.Holders > 0 {
			found(KindCorrupt, k.Key, k.Bytes, "its bytes did not match their digest")
		}
		if !k.Proven || k.Holders == 0 {
			continue
		}
		s.Bucket.Catalogued++
		switch o, there := listed[k.Key]; {
		case !there && now.Sub(k.Changed) >= settling:
			s.Bucket.Missing++
			found(KindMissing, k.Key, k.Bytes, "the catalogue needs it and the bucket has not got it")
		case there && o.Size != k.Bytes:
			s.Bucket.Missing++
			if len(s.Mismatched) < maxNamed {
				s.Mismatched = append(s.Mismatched, k.Key)
			}
			found(KindMismatched, k.Key, o.Size, fmt.Sprintf("the catalogue says %d bytes", k.Bytes))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(listed)) {
		o := listed[key]
		s.Bucket.Listed++
		s.BucketBytes += o.Size
		k, row := rows[key]
		switch {
		case leaving[key]:
			s.Uncatalogued.add(o.Size)
		case row && (k.Holders > 0 || k.Leaving):
			if !k.Proven {
				s.Uncatalogued.add(o.Size)
			}
		case row:
			s.orphan(o, "nothing refers to it")
		case Ours(key):
			s.orphan(o, "the catalogue does not know it")
		default:
			s.Foreign.add(o.Size)
			found(KindForeign, key, o.Size, "somebody else's: it is never touched")
		}
	}
	for _, o := range s.Orphans {
		found(KindOrphan, o.Key, o.Bytes, o.Detail)
	}
	slices.SortStableFunc(s.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Key, b.Key))
	})
}

func (s *Stock) orphan(o objectstore.Object, detail string) {
	s.Uncatalogued.add(o.Size)
	s.Bucket.OrphanBytes += o.Size
	s.Orphans = append(s.Orphans, Orphan{Key: o.Key, Bytes: o.Size, ModTime: o.ModTime, Detail: detail})
}

// ours are the keys that the registry makes. What looks otherwise is somebody else's,
// whatever digest it may name.
var ours = regexp.MustCompile(`^(blobs|cold)/([0-9a-f]{2})/([0-9a-f]{64})\.[1-9][0-9]*$`)

// Ours says whether a key has the form of the registry's.
func Ours(key string) bool {
	m := ours.FindStringSubmatch(key)
	return m != nil && m[3][:2] == m[2]
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
