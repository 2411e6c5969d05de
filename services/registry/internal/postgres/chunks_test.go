package postgres

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// cutFile is a file that is stored as these contents.
func cutFile(name string, contents ...string) catalog.File {
	f := fileOf(name, strings.Join(contents, ""))
	if len(contents) > 1 {
		for _, c := range contents {
			f.Chunks = append(f.Chunks, fileOf(name, c))
		}
	}
	return f
}

// cut commits a checkpoint with one model of these chunks.
func (f *fixture) cut(run string, fence uint64, step int64, chunks ...string) (catalog.Checkpoint, Stored) {
	f.Helper()
	staged, err := begin(f, run, fence, step, cutFile("model", chunks...))
	f.must(err)
	var (
		c      catalog.Checkpoint
		stored Stored
	)
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		c, stored, err = t.CommitCheckpoint(f.ctx, CommitCheckpoint{ID: staged.ID, Fence: fence, Resumable: true})
		return err
	}))
	return c, stored
}

func (f *fixture) beginDelete(ids ...string) []string {
	f.Helper()
	var keys []string
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		out, released, err := t.BeginDelete(f.ctx, ids, 0)
		for _, r := range out {
			if err == nil && !r.Done {
				f.Errorf("%s stays: %s", r.ID, r.Reason)
			}
		}
		keys = released
		return err
	}))
	return keys
}

func (f *fixture) condemn(ids ...string) {
	f.Helper()
	for _, r := range tombstone(f, ids...) {
		if !r.Done {
			f.Fatalf("%s is not condemned: %s", r.ID, r.Reason)
		}
	}
}

func keysOf(c catalog.Checkpoint) (keys []string) {
	for _, content := range catalog.Contents(c.Files) {
		keys = append(keys, content.ObjectKey)
	}
	return keys
}

// Two models with one trunk: the trunk is one object, asked for once, and goes with the last of them.
func TestASharedTrunkIsStoredOnce(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	bull, stored := f.cut(run, fence, 1, "header", "the trunk", "bull's head")
	if stored.New != 26 || stored.Shared != 0 {
		t.Errorf("the first brought %+v", stored)
	}
	staged, err := begin(f, run, fence, 2, cutFile("model", "header", "the trunk", "bear's"))
	f.must(err)
	if m := staged.Files[0]; m.Present || !m.Chunks[0].Present || !m.Chunks[1].Present || m.Chunks[2].Present || m.SHA256 != digestOf("headerthe trunkbear's") || m.Size != 21 {
		t.Fatalf("staged %+v", m)
	}
	bear, stored := f.cut(run, fence, 2, "header", "the trunk", "bear's")
	if stored.New != 6 || stored.Shared != 15 {
		t.Errorf("the second brought %+v", stored)
	}
	if b, r := keysOf(bull), keysOf(bear); b[1] != r[1] || b[2] == r[2] {
		t.Errorf("%v and %v", b, r)
	}
	shared, err := f.store.SharedBytes(f.ctx, bull.ID, bear.ID)
	if err != nil || shared[bull.ID] != 15 || shared[bear.ID] != 15 {
		t.Errorf("shared %v, %v", shared, err)
	}
	items, _, err := f.store.Inventory(f.ctx, []string{digestOf("the trunk")}, "", 10, f.now)
	f.must(err)
	if len(items) != 2 || items[0].ExclusiveBytes+items[1].ExclusiveBytes != 17 {
		t.Errorf("the holders of the trunk: %+v", items)
	}
	// Only the newest two of a live run are held: others make room.
	f.cut(run, fence, 3, "x", "y")
	f.cut(run, fence, 4, "x", "z")

	f.condemn(bull.ID)
	if keys := f.beginDelete(bull.ID); !slices.Equal(keys, keysOf(bull)[2:]) {
		t.Fatalf("with the first goes %v, not its head alone", keys)
	}
	got, err := f.store.GetCheckpoint(f.ctx, bear.ID)
	f.must(err)
	if !got.Files[0].Present {
		t.Fatalf("the second has lost something: %+v", got.Files[0])
	}
	f.condemn(bear.ID)
	if keys := f.beginDelete(bear.ID); len(keys) != 3 {
		t.Fatalf("with the last goes %v", keys)
	}
	// Released and uploaded again in between: another key, as the old one may go at any time.
	sideways, stored := f.cut(run, fence, 5, "header", "the trunk", "sideways'")
	if stored.Shared != 0 || keysOf(sideways)[1] == keysOf(bear)[1] || !strings.HasSuffix(keysOf(sideways)[1], ".2") {
		t.Errorf("the trunk came back as %v, %+v", keysOf(sideways), stored)
	}
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		_, err := t.ConfirmDeleted(f.ctx, []string{bull.ID, bear.ID})
		return err
	}))
	if got, err := f.store.GetCheckpoint(f.ctx, sideways.ID); err != nil || !got.Files[0].Present {
		t.Errorf("%+v, %v", got.Files, err)
	}
}

// Before the commit the same files may be cut anew; after it nothing changes any more.
func TestFilesAreCutAnewUntilTheCommit(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	whole, err := begin(f, run, fence, 1, cutFile("model", "trunkhead"))
	f.must(err)
	cut, err := begin(f, run, fence, 1, cutFile("model", "trunk", "head"))
	f.must(err)
	if cut.ID != whole.ID || len(cut.Files) != 1 || len(cut.Files[0].Chunks) != 2 || cut.Digest != whole.Digest {
		t.Fatalf("cut anew: %+v", cut)
	}
	_, err = commit(f, CommitCheckpoint{ID: cut.ID, Fence: fence})
	f.must(err)
	again, err := begin(f, run, fence, 1, cutFile("model", "trunkhead"))
	f.must(err)
	if again.ID != cut.ID || !again.Files[0].Present || len(again.Files[0].Chunks) != 2 {
		t.Errorf("after the commit: %+v", again)
	}
	// A content that occurs twice is stored once.
	twice, stored := f.cut(run, fence, 2, "same", "same", "other")
	if k := keysOf(twice); k[0] != k[1] || stored.New != 9 || twice.Bytes != 13 {
		t.Errorf("%v, %+v, %d bytes", k, stored, twice.Bytes)
	}
	// One digest has one size.
	lie := cutFile("model", "trunk", "head")
	lie.Chunks[0].Size, lie.Size = 7, 11
	if _, err := begin(f, run, fence, 3, lie); problem(err) != catalog.ProblemInvalid {
		t.Errorf("a chunk with another size: %v", err)
	}
}

// One reader's word condemns its checkpoint and what that alone holds, never a trunk that others share.
func TestABadChunkDoesNotCondemnTheTrunk(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	one, _ := f.cut(run, fence, 1, "trunk", "head one")
	two, _ := f.cut(run, fence, 2, "trunk", "head two")
	mark := func(id string, bad ...string) (shared []catalog.File) {
		f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
			var err error
			_, shared, err = t.MarkCorrupt(f.ctx, id, fence, "flipped bit", bad)
			return err
		}))
		return shared
	}
	if shared := mark(one.ID); len(shared) != 1 || shared[0].SHA256 != digestOf("trunk") {
		t.Errorf("to be read again: %+v", shared)
	}
	got, err := f.store.GetCheckpoint(f.ctx, one.ID)
	f.must(err)
	if !got.Corrupt || got.Files[0].Present || !got.Files[0].Chunks[0].Present || got.Files[0].Chunks[1].Present {
		t.Errorf("the reported one: %+v", got)
	}
	if got, err := f.store.GetCheckpoint(f.ctx, two.ID); err != nil || got.Corrupt || !got.Files[0].Present {
		t.Errorf("its neighbour: %+v, %v", got, err)
	}
	if shared := mark(two.ID, digestOf("head two")); len(shared) != 0 {
		t.Errorf("what was not named: %+v", shared)
	}
	// The trunk was really bad: everybody who holds it is told.
	var found BadObject
	f.must(f.store.Do(f.ctx, f.now, func(t *Tx) error {
		var err error
		found, err = t.QuarantineObject(f.ctx, keysOf(two)[0], "read again")
		return err
	}))
	three, err := begin(f, run, fence, 3, cutFile("model", "trunk", "head three"))
	f.must(err)
	if found.Repairable || three.Files[0].Chunks[0].Present || three.Files[0].Chunks[0].ObjectKey == keysOf(two)[0] {
		t.Errorf("found %+v; staged %+v", found, three.Files[0])
	}
}

// An archive takes contents; a base is looked for among the same chunks; dropped files give up what they alone hold.
func TestChunksAreArchivedOneByOne(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	first, _ := f.cut(run, fence, 1, "trunk", "head 1")
	second, _ := f.cut(run, fence, 2, "trunk", "head 2")
	staged, err := begin(f, run, fence, 3, cutFile("model", "trunk", "head 3"), cutFile("state", "trunk", "moments"))
	f.must(err)
	third, err := commit(f, CommitCheckpoint{ID: staged.ID, Fence: fence, Resumable: true})
	f.must(err)
	f.later(run, fence)
	f.archive(first)
	job := f.beginArchive(second)
	if len(job.Files) != 2 || job.Files[0].Existing == nil || len(job.Files[1].Chain) != 1 || job.Files[1].Chain[0].SHA256 != digestOf("head 1") {
		t.Fatalf("the trunk is there, the head is a difference: %+v", job)
	}
	f.archive(second)
	f.archive(third, "state")
	got, err := f.store.GetCheckpoint(f.ctx, third.ID)
	f.must(err)
	if len(got.Files) != 1 || !got.Files[0].Cold || got.Resumable || got.Bytes != 11 {
		t.Errorf("archived without its state: %+v", got)
	}
	released := f.released()
	for _, c := range []catalog.Checkpoint{first, second, third} {
		for _, key := range keysOf(c) {
			if _, ok := released[key]; !ok {
				t.Errorf("%s stays hot", key)
			}
		}
	}
	// One that comes back brings its own head and, for all, the trunk.
	back := got.Files[0].Chunks
	f.restore(back[0])
	if c, err := f.store.GetCheckpoint(f.ctx, third.ID); err != nil || c.Tier != catalog.ColdTier || !c.Files[0].Chunks[0].Present || !c.Files[0].Chunks[1].Cold {
		t.Errorf("half restored: %+v, %v", c, err)
	}
	f.restore(back[1])
	if c, err := f.store.GetCheckpoint(f.ctx, third.ID); err != nil || c.Tier != catalog.Hot || !c.Files[0].Present || c.Files[0].Cold {
		t.Errorf("restored: %+v, %v", c, err)
	}
}

// A trunk that archived heads are the difference to keeps one checkpoint, not all that hold it.
func TestABaseIsKeptOnce(t *testing.T) {
	f := setup(t)
	run, fence := f.run("")
	var frozen []catalog.Checkpoint
	for i := range 3 {
		c, _ := f.cut(run, fence, int64(i), "trunk 1", fmt.Sprint("head ", i))
		frozen = append(frozen, c)
	}
	thawed, _ := f.cut(run, fence, 9, "trunk 2", "head")
	f.later(run, fence)
	for _, c := range frozen {
		f.archive(c)
	}
	if job := f.beginArchive(thawed); len(job.Files[0].Chain) != 1 || job.Files[0].Chain[0].SHA256 != digestOf("trunk 1") {
		t.Fatalf("the thawed trunk stands alone: %+v", job)
	}
	f.archive(thawed)
	items, _, err := f.store.Inventory(f.ctx, nil, "", 10, f.now)
	f.must(err)
	for _, i := range items {
		if i.Checkpoint.ID == thawed.ID && len(i.Bases) != 1 {
			t.Errorf("it needs %v", i.Bases)
		}
		held := slices.ContainsFunc(i.Roots, func(r catalog.Root) bool { return r.Detail == "base of the archived "+thawed.ID })
		if held != (i.Checkpoint.ID == frozen[0].ID) {
			t.Errorf("%s, the base of the thawed trunk: %v", i.Checkpoint.ID, i.Roots)
		}
	}
}

// Commits that share contents, deletes, archives and restores in a random order: whatever can be read has all its bytes.
func TestNoOrderLosesAChunk(t *testing.T) {
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			f := setup(t)
			r := rand.New(rand.NewPCG(seed, 24))
			s := &sea{fixture: f, r: r, hot: map[string]bool{}, cold: map[string]bool{}}
			for range 150 {
				s.step()
				s.check()
			}
		})
	}
}

// sea is a bucket in memory beside the catalogue.
type sea struct {
	*fixture
	r         *rand.Rand
	made      []string
	hot, cold map[string]bool
}

func (s *sea) pick() (catalog.Checkpoint, bool) {
	if len(s.made) == 0 {
		return catalog.Checkpoint{}, false
	}
	c, err := s.store.GetCheckpoint(s.ctx, s.made[s.r.IntN(len(s.made))])
	s.must(err)
	return c, true
}

func (s *sea) step() {
	s.now = s.now.Add(30 * 24 * time.Hour)
	c, some := s.pick()
	switch n := s.r.IntN(10); {
	case n < 4 || !some:
		run, fence := s.run("")
		chunks := make([]string, 1+s.r.IntN(4))
		for i := range chunks {
			chunks[i] = fmt.Sprint("content ", s.r.IntN(6))
		}
		staged, err := begin(s.fixture, run, fence, 1, cutFile("model", chunks...), cutFile("state", fmt.Sprint("content ", s.r.IntN(6)), "moments"))
		s.must(err)
		for _, content := range catalog.Contents(staged.Files) {
			if content.Present && !s.hot[content.ObjectKey] {
				s.Fatalf("%s is said to be there", content.ObjectKey)
			}
			s.hot[content.ObjectKey] = true
		}
		_, err = commit(s.fixture, CommitCheckpoint{ID: staged.ID, Fence: fence, Resumable: true})
		s.must(err)
		s.accept(closed(key(run, 1, fence, 2), catalog.RunSucceeded))
		s.made = append(s.made, staged.ID)
	case n < 6:
		tombstone(s.fixture, c.ID)
	case n == 6:
		var keys []string
		s.must(s.store.Do(s.ctx, s.now, func(t *Tx) error {
			var err error
			_, keys, err = t.BeginDelete(s.ctx, []string{c.ID}, 0)
			return err
		}))
		for _, k := range keys {
			delete(s.hot, k)
		}
		s.must(s.store.Do(s.ctx, s.now, func(t *Tx) error {
			_, err := t.ConfirmDeleted(s.ctx, []string{c.ID})
			return err
		}))
	case n < 9:
		patterns := []string{"none"}
		if s.r.IntN(2) == 0 {
			patterns = []string{"state"}
		}
		job := s.beginArchive(c, patterns...)
		if !job.Done || len(job.Files) == 0 {
			return
		}
		for _, a := range job.Files {
			s.cold[a.ColdKey] = true
		}
		s.commitArchive(c, job, patterns...)
	default:
		for _, content := range catalog.Distinct(c.Files) {
			if content.Cold && (c.State == catalog.Live || c.State == catalog.Tombstoned) {
				s.hot[s.restore(content).ObjectKey] = true
			}
		}
	}
	for k, o := range s.released() {
		if s.r.IntN(2) == 0 && !o.Due.After(s.now) {
			delete(s.hot, k)
			delete(s.cold, k)
			s.must(s.store.Do(s.ctx, s.now, func(t *Tx) error { return t.ConfirmRemoved(s.ctx, []string{k}) }))
		}
	}
}

// check reads every checkpoint that can still be asked for.
func (s *sea) check() {
	s.Helper()
	for _, id := range s.made {
		c, err := s.store.GetCheckpoint(s.ctx, id)
		s.must(err)
		if c.State != catalog.Live && c.State != catalog.Tombstoned {
			continue
		}
		if c.Corrupt || len(c.Files) == 0 {
			s.Fatalf("%+v", c)
		}
		for _, content := range catalog.Contents(c.Files) {
			if !content.Cold {
				if !content.Present || !s.hot[content.ObjectKey] {
					s.Fatalf("%s of %s (%s) is gone: %+v", content.ObjectKey, id, c.State, content)
				}
				continue
			}
			chain, err := s.store.ColdChain(s.ctx, content.SHA256)
			s.must(err)
			if len(chain) == 0 {
				s.Fatalf("%s of %s (%s) has no copy", content.SHA256, id, c.State)
			}
			for i, link := range chain {
				if !s.cold[link.Key] && (i == 0 || !s.hot[link.HotKey]) {
					s.Fatalf("%s, which %s of %s needs, is gone", link.Key, content.SHA256, id)
				}
			}
		}
	}
}
