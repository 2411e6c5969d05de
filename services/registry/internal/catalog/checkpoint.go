package catalog

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"time"
)

// SharpeMetric is the metric that ranks checkpoints.
const SharpeMetric = "validation/sharpe"

// CheckpointState is the life of a checkpoint. PENDING has keys but no proven bytes;
// LIVE is proven; the rest is the two-phase sweep.
type CheckpointState string

// Checkpoint states.
const (
	Pending    CheckpointState = "PENDING"
	Live       CheckpointState = "LIVE"
	Tombstoned CheckpointState = "TOMBSTONED"
	Deleting   CheckpointState = "DELETING"
	Gone       CheckpointState = "DELETED"
)

// CanMove reports whether the sweep may take a checkpoint from one state to another.
// DELETING never goes back: bytes may already be gone.
func CanMove(from, to CheckpointState) bool {
	switch from {
	case Pending:
		return to == Live || to == Tombstoned
	case Live:
		return to == Tombstoned
	case Tombstoned:
		return to == Live || to == Deleting
	case Deleting:
		return to == Gone
	case Gone:
	}
	return false
}

// File is one file of a checkpoint. SHA256 is lower-case hex; Size is in bytes.
type File struct {
	Name      string
	SHA256    string
	Size      int64
	ObjectKey string
	// Present says that the bytes were proven in the object store before, so that
	// the caller need not upload them.
	Present bool
	// Cold says that the bytes are in the cold tier only: ObjectKey holds nothing.
	Cold bool
	// Chunks are what the file is stored as, in its order, when it is not one content. Then it has
	// no object of its own, and is Present when all of them are, Cold when one of them is. A chunk
	// has its file's Name and no Chunks.
	Chunks []File
}

// Tier is where the bytes of a checkpoint are.
type Tier string

// The tiers.
const (
	Hot      Tier = "HOT"
	ColdTier Tier = "COLD"
)

// Checkpoint is the catalogue's record of one checkpoint.
type Checkpoint struct {
	ID            string
	RunID         string
	Attempt       int32
	Fence         uint64
	Step          int64
	State         CheckpointState
	Corrupt       bool
	Detail        string
	ParentID      string
	Digest        string
	Bytes         int64
	Files         []File
	Metrics       map[string]float64
	FeatureSchema string
	DataVersion   string
	CodeVersion   string
	Experiment    string
	Pinned        bool
	// EvaluationWindow and Trades describe the evaluation behind Metrics.
	EvaluationWindow string
	Trades           int64
	// Resumable is false for weights without optimizer state.
	Resumable bool
	Create    time.Time
	Commit    time.Time
	Tombstone time.Time
	// TraceParent is the trace of the attempt that wrote it.
	TraceParent string
	Tier        Tier
}

// Sharpe returns the ranking metric and whether it can rank: NaN and infinities say
// that an evaluation broke, and a broken evaluation must never win.
func (c Checkpoint) Sharpe() (float64, bool) {
	v, ok := c.Metrics[SharpeMetric]
	return v, ok && Finite(v)
}

// Finite reports whether v is neither NaN nor infinite.
func Finite(v float64) bool {
	return !math.IsNaN(v) && !math.IsInf(v, 0)
}

// Rank orders checkpoints best first: finite validation Sharpe descending, then step
// ascending (the same quality reached earlier is the simpler model), then id. What
// cannot rank is left out.
func Rank(all []Checkpoint) []Checkpoint {
	ranked := make([]Checkpoint, 0, len(all))
	for _, c := range all {
		if _, ok := c.Sharpe(); ok {
			ranked = append(ranked, c)
		}
	}
	slices.SortFunc(ranked, func(a, b Checkpoint) int {
		sa, _ := a.Sharpe()
		sb, _ := b.Sharpe()
		return cmp.Or(cmp.Compare(sb, sa), cmp.Compare(a.Step, b.Step), cmp.Compare(a.ID, b.ID))
	})
	return ranked
}

// Best returns the checkpoint a model version is made from: the first of Rank among
// LIVE, uncorrupted ones.
func Best(all []Checkpoint) (Checkpoint, bool) {
	usable := make([]Checkpoint, 0, len(all))
	for _, c := range all {
		if c.State == Live && !c.Corrupt {
			usable = append(usable, c)
		}
	}
	ranked := Rank(usable)
	if len(ranked) == 0 {
		return Checkpoint{}, false
	}
	return ranked[0], true
}

// ManifestDigest is the identity of a checkpoint's content: its step and its files in
// name order. Resending the same manifest therefore finds the same checkpoint.
func ManifestDigest(step int64, files []File) string {
	sorted := slices.Clone(files)
	slices.SortFunc(sorted, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%d\n", step)
	for _, f := range sorted {
		_, _ = fmt.Fprintf(h, "%q %s %d\n", f.Name, f.SHA256, f.Size)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// ObjectKey is where a blob lives: by content, fanned out by its first byte, with a
// generation because a released key may still be about to be deleted.
func ObjectKey(sha256hex string, generation int32) string {
	return fmt.Sprintf("blobs/%s/%s.%d", sha256hex[:2], sha256hex, generation)
}
