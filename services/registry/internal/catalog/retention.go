package catalog

import (
	"encoding/hex"
	"fmt"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// PendingGrace is how long an uncommitted checkpoint counts as in flight and stays out of
// the inventory. It exceeds the longest upload by far: releasing bytes under a running
// upload cannot be undone.
const PendingGrace = 24 * time.Hour

// RootKind names why a checkpoint must not be swept, whatever a policy says.
type RootKind string

// Root kinds, strongest first.
const (
	RootProduction RootKind = "PRODUCTION"
	RootStaging    RootKind = "STAGING"
	RootRollback   RootKind = "ROLLBACK"
	RootAlias      RootKind = "ALIAS"
	RootVersion    RootKind = "VERSION"
	RootLiveRun    RootKind = "LIVE_RUN_LATEST"
	RootParent     RootKind = "PARENT"
	RootPin        RootKind = "PIN"
	RootLegalHold  RootKind = "LEGAL_HOLD"
)

// Root is one reason to keep a checkpoint; Detail names the referrer ("bull_specialist v3").
type Root struct {
	Kind   RootKind
	Detail string
}

// VersionUse is how one model version refers to a checkpoint.
type VersionUse struct {
	Model   string
	Version int32
	Stage   Stage
	Aliases []string
	// RollbackRank is the version's place among the model's former Production versions,
	// newest first; 0 = never served, or serving now.
	RollbackRank int
}

// RollbackKeep is how many former Production versions of a model stay for a rollback.
const RollbackKeep = 3

// Facts is what the catalogue knows about a checkpoint's referrers, read under lock.
type Facts struct {
	Versions []VersionUse
	// RunLive and RunRank place the checkpoint among its run's good ones, newest
	// step first (1 = newest). RunRank 0 = not among them.
	RunLive bool
	RunRank int
	// Children are ids of kept checkpoints that resumed from this one.
	Children []string
	// Dependents are ids of archived checkpoints whose packed copies are differences to this
	// one's contents.
	Dependents []string
	Pins       []string
	// LegalHold says who holds it and why; empty means nobody does.
	LegalHold string
}

// LiveRunKeep is how many of the newest good checkpoints a live run keeps: the newest
// for its restart, one more for when the newest turns out corrupt.
const LiveRunKeep = 2

// Roots lists every reason that keeps a checkpoint, strongest first. An empty list means
// that the catalogue does not need it; whether it is worth keeping is the janitor's policy.
func Roots(f Facts) []Root {
	var roots []Root
	add := func(k RootKind, detail string) { roots = append(roots, Root{k, detail}) }
	name := func(v VersionUse) string { return v.Model + " v" + strconv.Itoa(int(v.Version)) }
	for _, v := range f.Versions {
		if v.Stage == StageProduction {
			add(RootProduction, name(v))
		}
	}
	for _, v := range f.Versions {
		if v.Stage == StageStaging {
			add(RootStaging, name(v))
		}
	}
	for _, v := range f.Versions {
		if v.RollbackRank >= 1 && v.RollbackRank <= RollbackKeep {
			add(RootRollback, name(v))
		}
	}
	for _, v := range f.Versions {
		for _, a := range v.Aliases {
			if a != AliasOf(v.Stage) {
				add(RootAlias, v.Model+"@"+a)
			}
		}
	}
	for _, v := range f.Versions {
		add(RootVersion, name(v))
	}
	if f.RunLive && f.RunRank >= 1 && f.RunRank <= LiveRunKeep {
		add(RootLiveRun, "newest "+strconv.Itoa(f.RunRank)+" of a live run")
	}
	for _, c := range f.Children {
		add(RootParent, "parent of "+c)
	}
	for _, c := range f.Dependents {
		add(RootParent, "base of the archived "+c)
	}
	for _, p := range f.Pins {
		add(RootPin, p)
	}
	if f.LegalHold != "" {
		add(RootLegalHold, f.LegalHold)
	}
	return roots
}

// HotRoots are the roots that also keep a checkpoint out of the cold tier. A parent may go
// there: it stays readable.
func HotRoots(f Facts) []Root {
	return slices.DeleteFunc(Roots(f), func(r Root) bool { return r.Kind == RootParent })
}

// MaxColdDepth is the longest chain of differences; each link is one more copy to read
// before a checkpoint can be restored.
const MaxColdDepth = 8

// ReadRest is how long after a read a checkpoint stays hot: what is read is read again.
const ReadRest = time.Hour

// ColdKey is where a packed copy lives. The serial is never used twice, because a released
// key may still be about to be deleted.
func ColdKey(sha256hex string, serial int64) string {
	return fmt.Sprintf("cold/%s/%s.%d", sha256hex[:2], sha256hex, serial)
}

// ParseHotKey is the inverse of [ObjectKey].
func ParseHotKey(key string) (sha256hex string, generation int32, ok bool) {
	digest, n, ok := parseKey(key, "blobs")
	return digest, int32(n), ok && n <= math.MaxInt32
}

// IsColdKey says whether the key is one that [ColdKey] makes.
func IsColdKey(key string) bool {
	_, _, ok := parseKey(key, "cold")
	return ok
}

func parseKey(key, folder string) (digest string, n int64, ok bool) {
	rest, ok := strings.CutPrefix(key, folder+"/")
	if !ok || len(rest) < 3+64+2 {
		return "", 0, false
	}
	digest = rest[3 : 3+64]
	raw, err := hex.DecodeString(digest)
	if err != nil || hex.EncodeToString(raw) != digest || rest[:3] != digest[:2]+"/" || rest[3+64] != '.' {
		return "", 0, false
	}
	number := rest[3+64+1:]
	n, err = strconv.ParseInt(number, 10, 64)
	if err != nil || n < 1 || strconv.FormatInt(n, 10) != number {
		return "", 0, false
	}
	return digest, n, true
}

// Drop splits files by glob patterns of their names, or of the last part of these. When
// every file matches none is dropped: an empty checkpoint is worth nothing.
func Drop(files []File, patterns []string) (kept, dropped []File) {
	for _, f := range files {
		if slices.ContainsFunc(patterns, func(p string) bool { return globs(p, f.Name) || globs(p, path.Base(f.Name)) }) {
			dropped = append(dropped, f)
		} else {
			kept = append(kept, f)
		}
	}
	if len(kept) == 0 {
		return files, nil
	}
	return kept, dropped
}

func globs(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}
