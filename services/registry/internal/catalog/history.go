package catalog

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"
)

// HistoryKind says what an entry records.
type HistoryKind string

// History kinds.
const (
	HistoryRegistered HistoryKind = "REGISTERED"
	HistoryStage      HistoryKind = "STAGE_CHANGED"
	HistoryAliasSet   HistoryKind = "ALIAS_SET"
	HistoryAliasGone  HistoryKind = "ALIAS_REMOVED"
	HistoryDeleted    HistoryKind = "VERSION_DELETED"
	// HistoryPolicy has version 0 and the policy's JSON in Gates.
	HistoryPolicy HistoryKind = "POLICY_SET"
	// HistoryCheck has the check's name in Alias and its outcome in Gates.
	HistoryCheck    HistoryKind = "CHECK_RECORDED"
	HistoryApproved HistoryKind = "APPROVED"
)

// HistoryEntry is one line of a model's append-only history. Sequence counts from 1 per
// model without gaps; Hash covers every field and the previous hash, so that an edited,
// dropped or reordered line shows.
type HistoryEntry struct {
	// ModelID is what the hash covers: a rename changes Model and no history.
	ModelID  int64
	Model    string
	Sequence int64
	Version  int32
	Kind     HistoryKind
	From, To Stage
	// Alias is the alias of an alias entry, the name of a check.
	Alias     string
	Actor     string
	Reason    string
	RequestID string
	TraceID   string
	// Rollback marks a stage change made by RollbackModel.
	Rollback bool
	// Gates is the JSON of the gate results the decision rested on, "" without gates.
	Gates        string
	At           time.Time
	PreviousHash []byte
	Hash         []byte
}

// Seal sets the entry's place after previous (nil for the first) and its hash. At is cut
// to microseconds, which is what the database keeps, so that the hash survives the trip.
func (e HistoryEntry) Seal(previous *HistoryEntry) HistoryEntry {
	e.Sequence, e.PreviousHash = 1, nil
	if previous != nil {
		e.Sequence, e.PreviousHash = previous.Sequence+1, previous.Hash
	}
	e.At = e.At.UTC().Truncate(time.Microsecond)
	e.Hash = e.digest()
	return e
}

func (e HistoryEntry) digest() []byte {
	h := sha256.New()
	put := func(b []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		h.Write(n[:])
		h.Write(b)
	}
	num := func(v int64) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(v))
		put(n[:])
	}
	put(e.PreviousHash)
	num(e.ModelID)
	num(e.Sequence)
	num(int64(e.Version))
	for _, s := range []string{string(e.Kind), string(e.From), string(e.To), e.Alias, e.Actor,
		e.Reason, e.RequestID, e.TraceID, e.Gates} {
		put([]byte(s))
	}
	if e.Rollback {
		num(1)
	} else {
		num(0)
	}
	num(e.At.UnixMicro())
	return h.Sum(nil)
}

// VerifyChain checks a model's whole history, oldest first, and names the first line that
// does not hold.
func VerifyChain(entries []HistoryEntry) error {
	var previous *HistoryEntry
	for i := range entries {
		e := entries[i]
		want := e.Seal(previous)
		if e.Sequence != want.Sequence {
			return fmt.Errorf("history of %s: entry %d follows entry %d", e.Model, e.Sequence, want.Sequence-1)
		}
		if !bytes.Equal(e.PreviousHash, want.PreviousHash) || !bytes.Equal(e.Hash, want.Hash) {
			return fmt.Errorf("history of %s: entry %d was changed", e.Model, e.Sequence)
		}
		previous = &entries[i]
	}
	return nil
}

// LiveAt says which version was in Production at t (0 = none), from the history, oldest
// first. An entry counts from its own instant on.
func LiveAt(entries []HistoryEntry, t time.Time) int32 {
	var live int32
	for _, e := range entries {
		if e.At.After(t) {
			break
		}
		if e.Kind != HistoryStage && e.Kind != HistoryDeleted {
			continue
		}
		if e.To == StageProduction {
			live = e.Version
		} else if e.Version == live {
			live = 0
		}
	}
	return live
}

// RollbackTarget is the version to return to: the one in Production before the current
// one. Versions that were since deleted are passed over. Rolling back twice goes on to
// the version before, it does not flip: a flip would put the bad version back.
func RollbackTarget(entries []HistoryEntry, exists func(int32) bool) (int32, bool) {
	var stack []int32
	for _, e := range entries {
		if e.Kind != HistoryStage || e.To != StageProduction {
			continue
		}
		if e.Rollback {
			for len(stack) > 0 && stack[len(stack)-1] != e.Version {
				stack = stack[:len(stack)-1]
			}
			if len(stack) > 0 {
				continue
			}
		}
		stack = append(stack, e.Version)
	}
	live := int32(0)
	if len(entries) > 0 {
		live = LiveAt(entries, entries[len(entries)-1].At)
	}
	for i := len(stack) - 1; i >= 0; i-- {
		if stack[i] != live && exists(stack[i]) {
			return stack[i], true
		}
	}
	return 0, false
}
