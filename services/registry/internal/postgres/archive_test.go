package postgres

import (
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// promoteAny puts the version made of a checkpoint into production.
func (f *fixture) promoteAny(checkpoint string) {
	f.Helper()
	versions, err := f.store.Versions(f.ctx, "m")
	f.must(err)
	for _, v := range versions {
		if v.CheckpointID == checkpoint {
			_, _, err := f.promote(Promotion{Model: "m", Version: v.Version, To: catalog.StageProduction})
			f.must(err)
			return
		}
	}
	f.Fatalf("no version of %s", checkpoint)
}

// later ends the run and lets the clock pass everything that keeps a checkpoint hot.
func (f *fixture) later(run string, fence uint64) {
	f.Helper()
	f.now = f.now.Add(40 * 24 * time.Hour)
	k := key(run, 1, fence, 2)
	f.accept(closed(k, catalog.RunSucceeded))
	f.now = f.now.Add(40 * 24 * time.Hour)
}

func (f *fixture) beginArchive(c catalog.Checkpoint, patterns ...string) ArchiveJob {
	f.Helper()
	var jobs []ArchiveJob
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		jobs, err = t.BeginArchive(f.ctx, []string{c.ID}, patterns)
		return err
	}))
	return jobs[0]
}

func (f *fixture) commitArchive(c catalog.Checkpoint, job ArchiveJob, patterns ...string) Archived {
	f.Helper()
	var copies []ColdCopy
	for _, a := range job.Files {
		if a.Existing != nil {
			continue
		}
		packed := ColdCopy{SHA256: a.SHA256, Size: a.Size, Key: a.ColdKey, ObjectSHA256: digestOf("packed " + a.SHA256), ObjectSize: a.Size / 2}
		if len(a.Chain) > 0 {
			packed.Base = a.Chain[0].SHA256
		}
		copies = append(copies, packed)
	}
	var out Archived
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		out, err = t.CommitArchive(f.ctx, c.ID, copies, patterns, time.Hour)
		return err
	}))
	return out
}

// archive moves a checkpoint of a live run out of the way of its roots, and to the cold tier.
func (f *fixture) archive(c catalog.Checkpoint, patterns ...string) Archived {
	f.Helper()
	job := f.beginArchive(c, patterns...)
	if !job.Done {
		f.Fatalf("not to be archived: %s", job.Reason)
	}
	out := f.commitArchive(c, job, patterns...)
	if !out.Result.Done {
		f.Fatalf("not archived: %s", out.Result.Reason)
	}
	return out
}

func (f *fixture) released() map[string]ReleasedObject {
	f.Helper()
	all, err := f.store.ReleasedObjects(f.ctx, "", 1000)
	f.must(err)
	out := map[string]ReleasedObject{}
	for _, o := range all {
		out[o.Key] = o
	}
	return out
}

func (f *fixture) restore(file catalog.File) catalog.File {
	f.Helper()
	var target catalog.File
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		target, err = t.BeginRestore(f.ctx, file)
		return err
	}))
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		ok, err := t.FinishRestore(f.ctx, target)
		if err == nil && !ok {
			f.Error("the restored object is not wanted")
		}
		return err
	}))
	return target
}

func TestArchiveSwitchesReleasesAndComesBack(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	shared := f.checkpoint(run, fence, 1, 0.5, "trunk", "one")
	c := f.checkpoint(run, fence, 2, 0.6, "trunk", "two")
	if job := f.beginArchive(c); job.Done || !strings.Contains(job.Reason, "live run") {
		t.Errorf("the newest of a live run: %+v", job)
	}
	f.later(run, fence)
	first, again := f.beginArchive(c), f.beginArchive(c)
	if len(first.Files) != 2 || first.Files[0].ColdKey != again.Files[0].ColdKey || first.Files[0].Existing != nil {
		t.Fatalf("reserved %+v, then %+v", first, again)
	}
	if out := f.commitArchive(c, first); !out.Result.Done {
		t.Fatalf("not archived: %+v", out)
	}
	// The shared content stays hot for the other checkpoint.
	got, err := f.store.GetCheckpoint(f.ctx, c.ID)
	f.must(err)
	if got.Tier != catalog.ColdTier || len(f.released()) != 1 {
		t.Fatalf("after one of two: %+v, released %v", got, f.released())
	}
	f.archive(shared)
	if n := len(f.released()); n != 3 {
		t.Fatalf("after both %d objects are released, want 3", n)
	}
	for _, file := range got.Files {
		if _, ok := f.released()[file.ObjectKey]; !ok {
			t.Errorf("%s is not released", file.ObjectKey)
		}
	}
	got, err = f.store.GetCheckpoint(f.ctx, c.ID)
	f.must(err)
	for _, file := range got.Files {
		if !file.Cold {
			t.Errorf("%+v is not cold", file)
		}
		if hot := f.restore(file); hot.ObjectKey == file.ObjectKey {
			t.Error("a released key was used again")
		}
	}
	got, err = f.store.GetCheckpoint(f.ctx, c.ID)
	f.must(err)
	if got.Tier != catalog.Hot || got.Files[0].Cold || !got.Files[0].Present {
		t.Errorf("after its restore: %+v", got)
	}
	// Archived again, nothing is packed anew.
	job := f.beginArchive(c)
	for _, a := range job.Files {
		if a.Existing == nil {
			t.Errorf("packed again: %+v", a)
		}
	}
	f.archive(c)
}

func TestArchiveIsRefusedWhileSomethingNeedsItHot(t *testing.T) {
	f := setup(t)
	made := f.family("m", 3)
	f.now = f.now.Add(80 * 24 * time.Hour)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "x")
	f.later(run, fence)
	job := f.beginArchive(c)
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		_, err := t.SetPin(f.ctx, c.ID, true, "ann", "mine")
		return err
	}))
	out := f.commitArchive(c, job)
	if out.Result.Done || !strings.Contains(out.Result.Reason, "PIN") {
		t.Errorf("a pin between begin and commit: %+v", out)
	}
	if _, ok := f.released()[job.Files[0].ColdKey]; !ok {
		t.Error("the unused copy is leaked")
	}
	for _, v := range made {
		if job := f.beginArchive(v); job.Done && job.Reason == "" {
			t.Errorf("a registered version may be archived: %+v", job)
		}
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		_, err := t.SetPin(f.ctx, c.ID, false, "ann", "")
		return err
	}))
	f.must(f.store.NoteRead(f.ctx, c.ID, f.now))
	if job := f.beginArchive(c); job.Done || !strings.Contains(job.Reason, "was read") {
		t.Errorf("just read: %+v", job)
	}
}

func TestTrainingStateIsDroppedForGoodAfterTheGrace(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "weights", "state")
	f.later(run, fence)
	name := c.Files[1].Name
	out := f.archive(c, name)
	got, err := f.store.GetCheckpoint(f.ctx, c.ID)
	f.must(err)
	if out.DroppedBytes != c.Files[1].Size || len(got.Files) != 1 || got.Resumable || got.Bytes != c.Bytes-c.Files[1].Size {
		t.Errorf("dropped %d bytes, left %+v", out.DroppedBytes, got)
	}
	o, ok := f.released()[c.Files[1].ObjectKey]
	if !ok || !o.Due.Equal(f.now.Add(time.Hour)) {
		t.Errorf("the dropped bytes: %+v %v", o, ok)
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error { return t.ConfirmRemoved(f.ctx, []string{o.Key}) }))
	if _, ok := f.released()[o.Key]; !ok {
		t.Error("confirmed before it was due")
	}
	// A pattern that matches everything drops nothing.
	all := f.checkpoint2(run)
	if kept, dropped := catalog.Drop(all.Files, []string{"*"}); len(dropped) != 0 || len(kept) != len(all.Files) {
		t.Errorf("everything was dropped: %v", dropped)
	}
}

func (f *fixture) checkpoint2(run string) catalog.Checkpoint {
	f.Helper()
	all, err := f.store.ListCheckpoints(f.ctx, CheckpointFilter{RunID: run, Limit: 1})
	f.must(err)
	return all[0]
}

// A difference holds its base: in the catalogue, and when both go in their turn nothing is left.
func TestABaseStaysUntilItsDifferencesAreGone(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	base := f.checkpoint(run, fence, 1, 0.5, "aaaa")
	child := f.checkpoint(run, fence, 2, 0.6, "bbbb")
	f.later(run, fence)
	f.archive(base)
	job := f.beginArchive(child)
	if len(job.Files[0].Chain) != 1 || job.Files[0].Chain[0].SHA256 != base.Files[0].SHA256 {
		t.Fatalf("no base is offered: %+v", job.Files[0])
	}
	f.archive(child)
	chain, err := f.store.ColdChain(f.ctx, child.Files[0].SHA256)
	f.must(err)
	if len(chain) != 2 {
		t.Fatalf("chain %+v", chain)
	}
	if r := tombstone(f, base.ID); r[0].Done || !strings.Contains(r[0].Reason, "base of the archived "+child.ID) {
		t.Fatalf("the base was condemned: %+v", r)
	}
	items, _, err := f.store.Inventory(f.ctx, nil, "", 10, f.now)
	f.must(err)
	for _, i := range items {
		if i.Checkpoint.ID == child.ID && (len(i.Bases) != 1 || i.Bases[0] != base.ID || i.ExperimentUse.IsZero() || i.LastUse.IsZero()) {
			t.Errorf("the inventory says %+v", i)
		}
	}
	for _, c := range []catalog.Checkpoint{child, base} {
		if r := tombstone(f, c.ID); !r[0].Done {
			t.Fatalf("tombstone: %+v", r)
		}
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			r, keys, err := t.BeginDelete(f.ctx, []string{c.ID}, 0)
			if err == nil && (!r[0].Done || len(keys) != 0) {
				f.Errorf("begin delete: %+v %v", r, keys)
			}
			if err == nil {
				_, err = t.ConfirmDeleted(f.ctx, []string{c.ID})
			}
			return err
		}))
	}
	objects, err := f.store.Objects(f.ctx, "", 100)
	f.must(err)
	if len(objects) != 0 || len(f.released()) != 4 {
		t.Errorf("left behind: %+v; released %v", objects, f.released())
	}
}

func TestBadObjectsAreRepairedOrQuarantined(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	twice := f.checkpoint(run, fence, 1, 0.5, "aaaa")
	once := f.checkpoint(run, fence, 2, 0.5, "bbbb")
	f.later(run, fence)
	f.archive(twice)
	hot := f.restore(twice.Files[0])
	report := func(key string) (out BadObject) {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			var err error
			out, err = t.QuarantineObject(f.ctx, key, "flipped")
			return err
		}))
		return out
	}
	if got := report(hot.ObjectKey); !got.Repairable || len(got.Corrupt) != 0 {
		t.Errorf("two tiers: %+v", got)
	}
	f.restore(twice.Files[0])
	if c, err := f.store.GetCheckpoint(f.ctx, twice.ID); err != nil || c.Corrupt || !c.Files[0].Present || c.Files[0].ObjectKey == hot.ObjectKey {
		t.Errorf("after its repair: %+v %v", c, err)
	}
	if got := report(once.Files[0].ObjectKey); got.Repairable || len(got.Corrupt) != 1 || got.Corrupt[0] != once.ID {
		t.Errorf("one tier: %+v", got)
	}
	f.archive(twice)
	chain, err := f.store.ColdChain(f.ctx, twice.Files[0].SHA256)
	f.must(err)
	if got := report(chain[0].Key); len(got.Corrupt) != 1 || got.Corrupt[0] != twice.ID {
		t.Errorf("only cold: %+v", got)
	}
	if got := report("somebody/elses.bin"); got.Repairable || len(got.Corrupt) != 0 {
		t.Errorf("a foreign key: %+v", got)
	}
}

func TestObjectsAreReleasedOnlyWhenNobodyNeedsThem(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	c := f.checkpoint(run, fence, 1, 0.5, "used")
	given, err := begin(f, run, fence, 2, fileOf("w", "given up"))
	f.must(err)
	release := func(key string) (why string) {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			var err error
			why, err = t.ReleaseObject(f.ctx, key, 4, time.Hour)
			return err
		}))
		return why
	}
	orphan := catalog.ObjectKey(digestOf("orphan"), 1)
	for key, want := range map[string]string{
		c.Files[0].ObjectKey: "refers", given.Files[0].ObjectKey: "refers", "models/old.pth": "somebody else's",
		"blobs/ab/notadigest.1": "somebody else's", orphan: "", catalog.ColdKey(digestOf("cold"), 77): "",
	} {
		if got := release(key); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	// The orphan's key is never handed out again.
	next, err := begin(f, run, fence, 3, fileOf("w", "orphan"))
	f.must(err)
	if next.Files[0].ObjectKey == orphan {
		t.Error("a released key was handed out")
	}
}
