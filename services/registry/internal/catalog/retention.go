package catalog

import (
	"strconv"
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
	Pins     []string
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
	for _, p := range f.Pins {
		add(RootPin, p)
	}
	return roots
}
