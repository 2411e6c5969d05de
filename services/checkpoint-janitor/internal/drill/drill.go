// Package drill restores checkpoints that nobody has asked for: a backup that was
// never restored is a hope. It reads everything that is in production and a sample
// of the rest, hot and archived, out of the store as it is, compares every byte with
// the catalogue's digests, and throws the copies away.
package drill

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

const (
	// Every is how often a drill runs by itself.
	Every = 7 * 24 * time.Hour
	// Sample is how many checkpoints it restores beside those in production.
	Sample = 5
	// maxFailures keeps a record readable.
	maxFailures = 50
)

// Record is what a drill has found; no failure means that it passed.
type Record struct {
	ID          string
	Caller      string
	Checkpoints int
	Bytes       int64
	Failures    []string
	EndTime     time.Time
}

// Catalogue says what there should be.
type Catalogue interface {
	List(ctx context.Context) ([]retention.Checkpoint, int, error)
	Objects(ctx context.Context) ([]inventory.Object, error)
}

// Bucket is read.
type Bucket interface {
	Get(ctx context.Context, key, digest string) (io.ReadCloser, error)
}

// Drill restores samples.
type Drill struct {
	Catalogue Catalogue
	// Bucket serves both tiers.
	Bucket Bucket
	// Scratch is a directory for the copies; empty is the system's.
	Scratch string
}

// Run restores everything in production and n others, chosen by the seed.
func (d *Drill) Run(ctx context.Context, n int, seed uint64) (r Record, err error) {
	all, _, err := d.Catalogue.List(ctx)
	if err != nil {
		return r, fmt.Errorf("list the registry's inventory: %w", err)
	}
	objects, err := d.Catalogue.Objects(ctx)
	if err != nil {
		return r, fmt.Errorf("list the registry's objects: %w", err)
	}
	dir, err := os.MkdirTemp(d.Scratch, "trainyard-drill-*")
	if err != nil {
		return r, fmt.Errorf("make room for the drill: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s := &session{bucket: d.Bucket, dir: dir, hot: map[string]inventory.Object{}, cold: map[string]inventory.Object{}}
	for _, o := range objects {
		switch {
		case !o.Proven:
		case o.Cold:
			s.cold[o.SHA256] = o
		default:
			s.hot[o.SHA256] = o
		}
	}
	for _, c := range choose(all, n, seed) {
		r.Checkpoints++
		for _, f := range c.Files {
			err := s.content(ctx, f.Digest, 0)
			switch {
			case err == nil:
				r.Bytes += f.Bytes
			case ctx.Err() != nil:
				return r, ctx.Err()
			case errors.Is(err, objectstore.ErrUnavailable):
				return r, err // the store is away: that says nothing about what it holds
			case len(r.Failures) < maxFailures:
				r.Failures = append(r.Failures, fmt.Sprintf("checkpoint %s, content %s: %v", c.ID, f.Digest, err))
			}
		}
	}
	return r, nil
}

// choose takes all of production, then half of the sample from the archive, so that the
// codec is drilled too however few are archived.
func choose(all []retention.Checkpoint, n int, seed uint64) []retention.Checkpoint {
	var production, archived, rest []retention.Checkpoint
	for _, c := range all {
		switch {
		case c.State != retention.StateLive:
		case slices.ContainsFunc(c.References, func(r retention.Reference) bool { return r.Kind == retention.RefProduction }):
			production = append(production, c)
		case c.Archived:
			archived = append(archived, c)
		default:
			rest = append(rest, c)
		}
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for _, pool := range [][]retention.Checkpoint{archived, rest} {
		r.Shuffle(len(pool), func(i, k int) { pool[i], pool[k] = pool[k], pool[i] })
	}
	cold := min(len(archived), max((n+1)/2, n-len(rest)))
	return slices.Concat(production, archived[:cold], rest[:min(len(rest), n-cold)])
}

// session reads contents; what one needs as a base is on the disk only meanwhile.
type session struct {
	bucket    Bucket
	dir       string
	hot, cold map[string]inventory.Object
	serial    int
}

// maxDepth is far above any chain that the registry makes.
const maxDepth = 16

// content reads one content to its end and compares it with its digest.
func (s *session) content(ctx context.Context, digest string, depth int) error {
	path, err := s.restore(ctx, digest, depth)
	if err != nil {
		return err
	}
	return os.Remove(path)
}

func (s *session) restore(ctx context.Context, digest string, depth int) (path string, err error) {
	if depth > maxDepth {
		return "", errors.New("its chain of differences has no end")
	}
	s.serial++
	path = filepath.Join(s.dir, fmt.Sprint(s.serial))
	f, err := os.Create(path)
	if err != nil {
		return "", err
	}
	if o, ok := s.hot[digest]; ok {
		err = s.read(ctx, o.Key, digest, func(body io.Reader) error {
			_, err := io.Copy(f, body)
			return err
		})
	} else if o, ok := s.cold[digest]; ok {
		err = s.unpack(ctx, o, digest, f, depth)
	} else {
		err = errors.New("neither tier has it")
	}
	return path, errors.Join(err, f.Close())
}

func (s *session) read(ctx context.Context, key, digest string, use func(io.Reader) error) error {
	body, err := s.bucket.Get(ctx, key, digest)
	if err != nil {
		return err
	}
	return errors.Join(use(body), body.Close())
}

// unpack asks the packed file itself for its base: it must be enough, should the catalogue be lost.
func (s *session) unpack(ctx context.Context, o inventory.Object, digest string, into *os.File, depth int) error {
	var base io.ReadSeeker
	wanted, err := s.baseOf(ctx, o)
	if err != nil {
		return err
	}
	if wanted != "" {
		path, err := s.restore(ctx, wanted, depth+1)
		if err != nil {
			return fmt.Errorf("its base %s: %w", wanted, err)
		}
		b, err := os.Open(path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.Close(), os.Remove(path)) }()
		base = b
	}
	return s.read(ctx, o.Key, o.ObjectSHA256, func(body io.Reader) error {
		stats, err := checkpointcodec.Decode(into, body, base)
		if err == nil && stats.SHA256 != digest {
			err = fmt.Errorf("%w: %s comes out", checkpointcodec.ErrDigest, stats.SHA256)
		}
		return err
	})
}

func (s *session) baseOf(ctx context.Context, o inventory.Object) (digest string, err error) {
	body, err := s.bucket.Get(ctx, o.Key, "")
	if err != nil {
		return "", err
	}
	base, err := checkpointcodec.Base(body)
	return hex.EncodeToString(base), errors.Join(err, body.Close())
}
