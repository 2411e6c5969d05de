package retention

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"math"
	"slices"
	"time"
)

// canon writes values into a digest in one unambiguous form: every field has a
// fixed place and a length. JSON is not used, because it cannot carry NaN and
// because a new field of a library's encoder must not change old hashes.
type canon struct {
	h   hash.Hash
	buf []byte
}

func newCanon(tag string) *canon {
	c := &canon{h: sha256.New()}
	c.text(tag)
	return c
}

func (c *canon) sum() string {
	c.flush()
	return hex.EncodeToString(c.h.Sum(nil))
}

// full is when the buffer goes to the digest: hashing eight bytes at a time
// costs more than the hash.
const full = 4 << 10

func (c *canon) flush() {
	c.h.Write(c.buf) // a hash never fails
	c.buf = c.buf[:0]
}

func (c *canon) int(v int64) {
	c.buf = binary.BigEndian.AppendUint64(c.buf, uint64(v))
	if len(c.buf) >= full {
		c.flush()
	}
}

func (c *canon) text(s string) {
	c.int(int64(len(s)))
	c.buf = append(c.buf, s...)
}

func (c *canon) flag(b bool) {
	if b {
		c.int(1)
	} else {
		c.int(0)
	}
}

// float writes the bits, with every NaN as one.
func (c *canon) float(f float64) {
	if math.IsNaN(f) {
		f = math.NaN()
	}
	c.int(int64(math.Float64bits(f)))
}

func (c *canon) time(t time.Time) {
	if t.IsZero() {
		c.text("never")
		return
	}
	c.text("at")
	c.int(t.Unix())
	c.int(int64(t.Nanosecond()))
}

func (c *canon) texts(list []string) {
	c.int(int64(len(list)))
	for _, s := range list {
		c.text(s)
	}
}

// Hash identifies the policy: equal text or not, equal meaning has equal hash.
func (p Policy) Hash() string {
	c := newCanon("trainyard retention policy 1")
	c.int(int64(p.Version))
	c.text(p.Revision)
	c.flag(p.Development)
	c.int(int64(p.Grace))
	c.int(int64(len(p.Rules)))
	for _, r := range p.Rules {
		c.text(r.Name)
		c.texts(r.Experiments)
		for _, v := range []int64{
			int64(r.KeepTop), r.MinTrades, int64(r.KeepLastPerLiveJob),
			int64(r.YoungFor), int64(r.DropOutrankedAfter), int64(r.ArchiveAfter), int64(r.DeleteAbandonedAfter),
		} {
			c.int(v)
		}
		// What came later counts only where it is used: policies from before keep their hash.
		if r.RankBy != "" && r.RankBy != BySharpe {
			c.text("rank by " + string(r.RankBy))
			c.float(r.confidence())
		}
		if len(r.DropFiles) > 0 {
			c.text("drop")
			c.texts(r.DropFiles)
		}
	}
	c.float(p.Caps.MaxDropFraction)
	c.int(p.Caps.SmallDropBytes)
	c.int(int64(p.Caps.MaxClockJump))
	c.float(p.Caps.MaxMissingFraction)
	c.int(int64(p.Caps.SmallMissing))
	c.float(p.Watermark.AlertAt)
	c.float(p.Watermark.TightenAt)
	c.int(int64(p.Watermark.KeepTop))
	c.int(int64(p.Watermark.ArchiveAfter))
	c.int(int64(p.Watermark.DeleteAbandonedAfter))
	return c.sum()
}

// Hash identifies the inventory, whatever the order of its checkpoints.
func (v Inventory) Hash() string {
	digests := make([]string, len(v.Checkpoints))
	one := newCanon("")
	for i := range v.Checkpoints {
		digests[i] = one.digestOf(&v.Checkpoints[i])
	}
	slices.Sort(digests)
	c := newCanon("trainyard inventory 1")
	c.int(v.Usage.UsedBytes)
	c.int(v.Usage.CapacityBytes)
	c.texts(digests)
	return c.sum()
}

// digestOf starts anew, so that an inventory needs one digest and one buffer.
func (c *canon) digestOf(o *Checkpoint) string {
	c.h.Reset()
	c.buf = c.buf[:0]
	c.text("trainyard checkpoint 1")
	c.text(o.ID)
	c.text(o.Experiment)
	c.text(o.RunID)
	c.int(o.Step)
	c.time(o.CreateTime)
	c.int(int64(o.State))
	c.flag(o.Uncommitted)
	c.time(o.TombstoneTime)
	c.flag(o.Sharpe.Known)
	c.float(o.Sharpe.Value)
	c.int(o.Trades)
	c.text(o.Window)
	c.flag(o.RunActive)
	c.flag(o.Resumable)
	c.time(o.LastUse)
	c.flag(o.Archived)
	c.texts(o.Parents)
	c.int(int64(len(o.References)))
	for _, r := range o.References {
		c.int(int64(r.Kind))
		c.text(r.Detail)
		c.time(r.Until)
	}
	c.int(int64(len(o.Files)))
	for _, f := range o.Files {
		c.text(f.Digest)
		c.int(f.Bytes)
	}
	// What came later counts only where it is known: inventories from before keep their hash.
	if !o.ExperimentUse.IsZero() {
		c.text("experiment used")
		c.time(o.ExperimentUse)
	}
	if o.SharpeLow.Known {
		c.text("low")
		c.float(o.SharpeLow.Value)
	}
	return c.sum()
}

func (p Plan) hash() string {
	c := newCanon("trainyard plan 1")
	c.time(p.Now)
	c.text(p.PolicyHash)
	c.text(p.InventoryHash)
	c.flag(p.Tightened)
	c.int(int64(len(p.Decisions)))
	for _, d := range p.Decisions {
		c.text(d.ID)
		c.int(int64(d.Verdict))
		c.int(int64(d.Rank))
		c.int(d.FreedBytes)
		c.int(int64(len(d.Reasons)))
		for _, r := range d.Reasons {
			c.text(string(r.Code))
			c.text(r.Text)
		}
	}
	return c.sum()
}
