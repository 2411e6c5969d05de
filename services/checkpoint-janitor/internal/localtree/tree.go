package localtree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// HoldFor is how long a person's restore protects a file.
const HoldFor = 30 * 24 * time.Hour

// Tree is a directory under the policy. Use it from one goroutine, and with one process
// at a time.
type Tree struct {
	Disk Disk
	// Log gets a line for whatever a person should know.
	Log func(format string, args ...any)

	serial int
	made   map[string]bool
}

// Stock is what a tree holds.
type Stock struct {
	retention.Inventory
	state state
	info  map[string]Info
}

// Take reads the tree. Files that have not changed since are not read again.
func (t *Tree) Take(now time.Time) (Stock, error) {
	s, err := t.load()
	if err != nil {
		return Stock{}, err
	}
	stock := Stock{state: s, info: map[string]Info{}}
	links := map[string][]string{}
	sidecars := map[string]bool{}
	err = t.Disk.Walk(func(name string, i Info) {
		switch {
		case strings.HasPrefix(name, Folder+"/"):
		case isCheckpoint(name):
			stock.info[name] = i
		case strings.HasSuffix(name, ".json"):
			sidecars[name] = true
		}
	}, func(name, target string) {
		links[target] = append(links[target], name)
	}, func(name string, err error) { t.Log("%s cannot be read: %v", name, err) })
	if err != nil {
		return Stock{}, err
	}
	for name, i := range stock.info {
		e, known := s.Files[name]
		if !known || e.Bytes != i.Bytes || !e.ModTime.Equal(i.ModTime) {
			fresh, err := t.describe(name, i, sidecars)
			if err != nil {
				t.Log("%s cannot be read: %v", name, err)
				delete(stock.info, name)
				continue
			}
			switch {
			case fresh.SHA256 == e.SHA256:
				e.ModTime = fresh.ModTime // touched, or put back: what is known of it holds
			default:
				// Another content under an old name: no mark of the old one holds, a pin does. An
				// archived one goes on under a name of its own.
				if e.Cold != "" {
					s.Files[name+"@"+e.SHA256[:8]] = e
				}
				fresh.Pinned = e.Pinned
				e = fresh
			}
			s.Files[name] = e
		}
		stock.Usage.UsedBytes += i.Bytes
	}
	for name, e := range s.Files {
		i, there := stock.info[name]
		if !there && e.Cold == "" {
			delete(s.Files, name) // deleted, by us or by somebody else
			continue
		}
		stock.Checkpoints = append(stock.Checkpoints, e.checkpoint(name, i, there, links[name], now))
	}
	slices.SortFunc(stock.Checkpoints, func(a, b retention.Checkpoint) int { return strings.Compare(a.ID, b.ID) })
	return stock, nil
}

func (e entry) checkpoint(name string, i Info, there bool, links []string, now time.Time) retention.Checkpoint {
	c := retention.Checkpoint{
		ID: name, Experiment: path.Dir(name), RunID: path.Dir(name), Step: e.Step, State: retention.StateLive, CreateTime: e.ModTime,
		Resumable: true, Archived: !there, LastUse: i.ReadTime, Files: []retention.File{{Digest: e.SHA256, Bytes: e.Bytes}},
	}
	if e.Sharpe != "" {
		if v, err := strconv.ParseFloat(e.Sharpe, 64); err == nil {
			c.Sharpe = retention.Measured(v)
		}
	}
	if !e.Tombstone.IsZero() {
		c.State, c.TombstoneTime = retention.StateTombstoned, e.Tombstone
	}
	hold := func(kind retention.ReferenceKind, detail string) {
		c.References = append(c.References, retention.Reference{Kind: kind, Detail: detail})
	}
	if e.Pinned {
		hold(retention.RefPin, "")
	}
	if e.HoldUntil.After(now) {
		c.References = append(c.References, retention.Reference{Kind: retention.RefRestored, Until: e.HoldUntil})
	}
	for _, link := range links {
		hold(retention.RefOther, "the link "+link)
	}
	if i.Links > 1 {
		hold(retention.RefOther, fmt.Sprintf("%d other names of the same file", i.Links-1))
	}
	if chosen.MatchString(path.Base(name)) {
		hold(retention.RefOther, "its own name, by which somebody has chosen it")
	}
	return c
}

// Done is what a run did.
type Done struct {
	Tombstoned, Revived, Deleted, Archived int
	FreedBytes                             int64
	// Kept are files that were to go and did not, with the reason.
	Kept []string
}

// Apply carries a plan out over the stock that it was made from. Cut anywhere, the next run
// goes on: every step is durable before the one that needs it.
func (t *Tree) Apply(ctx context.Context, plan retention.Plan, stock Stock, grace time.Duration) (Done, error) {
	var done Done
	s := stock.state
	for _, d := range plan.Decisions {
		e := s.Files[d.ID]
		switch {
		case d.Verdict == retention.Drop && e.Tombstone.IsZero():
			e.Tombstone, e.Reason = plan.Now, d.Text()
			done.Tombstoned++
		case d.Verdict == retention.Revive:
			e.Tombstone, e.Reason = time.Time{}, ""
			done.Revived++
		default:
			continue
		}
		s.Files[d.ID] = e
	}
	s.LastRun = plan.Now
	// The marks first: a delete without its mark on the disk could not be explained.
	if err := t.save(s); err != nil {
		return done, err
	}
	for _, d := range plan.Decisions {
		if err := ctx.Err(); err != nil {
			return done, err
		}
		e := s.Files[d.ID]
		ripe := !e.Tombstone.IsZero() && plan.Now.Sub(e.Tombstone) >= grace
		var err error
		switch {
		case d.Verdict == retention.Drop && ripe:
			err = t.delete(d.ID, e, &done)
			if err == nil {
				delete(s.Files, d.ID)
			}
		case d.Verdict == retention.Archive:
			err = t.archive(d.ID, e, s, &done)
		}
		var kept *keptError
		if errors.As(err, &kept) {
			done.Kept = append(done.Kept, d.ID+": "+kept.why)
			continue
		}
		if err != nil {
			return done, fmt.Errorf("%s: %w", d.ID, err)
		}
	}
	s.Left = len(s.Files)
	return done, errors.Join(t.save(s), t.tidy(s))
}

// keptError says why a file was left as it is.
type keptError struct{ why string }

func (e *keptError) Error() string { return e.why }

// verify reads a file again: what changed behind our back is somebody's new work.
func (t *Tree) verify(name string, e entry) error {
	i, err := t.Disk.Stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return &keptError{"it is gone already"}
	}
	if err != nil {
		return err
	}
	if i.Bytes != e.Bytes || !i.ModTime.Equal(e.ModTime) || i.Links > 1 {
		return &keptError{"it has changed since it was judged"}
	}
	digest, _, err := t.digest(name)
	if err == nil && digest != e.SHA256 {
		err = &keptError{"its bytes have changed since it was judged"}
	}
	return err
}

func (t *Tree) digest(name string) (digest string, n int64, err error) {
	f, err := t.Disk.Open(name)
	if err != nil {
		return "", 0, err
	}
	sum := sha256.New()
	n, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), n, errors.Join(err, f.Close())
}

func (t *Tree) delete(name string, e entry, done *Done) error {
	if e.Cold != "" {
		if err := t.Disk.Remove(e.Cold); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		done.FreedBytes += e.ColdBytes
		if err := t.Disk.SyncDir(path.Dir(e.Cold)); err != nil {
			return err
		}
	}
	switch err := t.verify(name, e); {
	case err == nil:
		if err := t.Disk.Remove(name); err != nil {
			return err
		}
		done.FreedBytes += e.Bytes
	case e.Cold == "":
		return err
	}
	done.Deleted++
	return t.Disk.SyncDir(path.Dir(name))
}

// archive packs a file, proves the copy, notes it, and only then removes the file.
func (t *Tree) archive(name string, e entry, s state, done *Done) error {
	if err := t.verify(name, e); err != nil {
		return err
	}
	if e.Cold == "" {
		cold := coldDir + "/" + name + ".tyar"
		var stats checkpointcodec.Stats
		src, err := t.Disk.Open(name)
		if err != nil {
			return err
		}
		err = t.publish(cold, func(w io.Writer) error {
			stats, err = checkpointcodec.Encode(w, src, nil)
			return err
		}, func(f File) error {
			back, err := checkpointcodec.Decode(io.Discard, f, nil)
			if err == nil && back.SHA256 != e.SHA256 {
				err = &keptError{"its packed copy does not give back the same bytes"}
			}
			return err
		})
		if err = errors.Join(err, src.Close()); err != nil {
			return err
		}
		e.Cold, e.ColdBytes = cold, stats.Packed
		s.Files[name] = e
		if err := t.save(s); err != nil {
			return err
		}
	}
	if err := t.Disk.Remove(name); err != nil {
		return err
	}
	done.Archived++
	done.FreedBytes += e.Bytes - e.ColdBytes
	return t.Disk.SyncDir(path.Dir(name))
}

// Restore undoes a mark, or unpacks an archived file to where it was.
func (t *Tree) Restore(name string, now time.Time) (what string, err error) {
	s, err := t.load()
	if err != nil {
		return "", err
	}
	e, ok := s.Files[name]
	if !ok {
		return "", fmt.Errorf("nothing is known of %s; names are relative to the directory, as the plan prints them", name)
	}
	if _, err := t.Disk.Stat(name); errors.Is(err, fs.ErrNotExist) {
		if e.Cold == "" {
			return "", fmt.Errorf("%s has been deleted", name)
		}
		if err := t.unpack(name, e); err != nil {
			return "", err
		}
		what = "unpacked, its digest checked"
	} else if err != nil {
		return "", err
	}
	if !e.Tombstone.IsZero() {
		what = strings.TrimPrefix(what+"; its mark is taken back", "; ")
	}
	if what == "" {
		return "it is there and not marked; nothing to do", nil
	}
	cold := e.Cold
	e.Tombstone, e.Reason, e.Cold, e.ColdBytes, e.HoldUntil = time.Time{}, "", "", 0, now.Add(HoldFor)
	s.Files[name] = e
	if err := t.save(s); err != nil {
		return "", err
	}
	if cold != "" {
		if err := t.Disk.Remove(cold); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
	}
	return what, nil
}

func (t *Tree) unpack(name string, e entry) error {
	src, err := t.Disk.Open(e.Cold)
	if err != nil {
		return err
	}
	err = t.publish(name, func(w io.Writer) error {
		stats, err := checkpointcodec.Decode(w, src, nil)
		if err == nil && stats.SHA256 != e.SHA256 {
			err = fmt.Errorf("%s unpacks to other bytes than it was made from", e.Cold)
		}
		return err
	}, nil)
	if err = errors.Join(err, src.Close()); err != nil {
		return err
	}
	return t.Disk.SetTime(name, e.ModTime)
}

// Pin keeps a file whatever the policy says, or no longer.
func (t *Tree) Pin(name string, pinned bool, now time.Time) error {
	stock, err := t.Take(now)
	if err != nil {
		return err
	}
	e, ok := stock.state.Files[name]
	if !ok {
		return fmt.Errorf("there is no checkpoint %s; names are relative to the directory", name)
	}
	e.Pinned = pinned
	stock.state.Files[name] = e
	return t.save(stock.state)
}

// Circumstances are what the run is judged by.
func (s Stock) Circumstances(now time.Time, confirmed bool) retention.Circumstances {
	return retention.Circumstances{Now: now, LastRun: s.state.LastRun, LastCatalogued: s.state.Left, Attended: true, Confirmed: confirmed,
		Bucket: retention.Bucket{Catalogued: len(s.Checkpoints), Listed: len(s.Checkpoints)}}
}

// tidy removes what a cut run has left: temporary files, and packed copies that were not noted
// yet and whose file is still there.
func (t *Tree) tidy(s state) error {
	named := map[string]bool{}
	for _, e := range s.Files {
		named[e.Cold] = true
	}
	var left []string
	err := t.Disk.Walk(func(name string, _ Info) {
		original, packed := strings.CutPrefix(strings.TrimSuffix(name, ".tyar"), coldDir+"/")
		switch {
		case strings.HasPrefix(name, tmpDir+"/"):
			left = append(left, name)
		case packed && !named[name]:
			if _, err := t.Disk.Stat(original); err == nil {
				left = append(left, name)
			} else {
				t.Log("%s is a packed copy that nothing is known of; unpack it with: checkpoint-janitor unpack -o FILE", name)
			}
		}
	}, func(string, string) {}, func(string, error) {})
	for _, name := range left {
		err = errors.Join(err, t.Disk.Remove(name))
	}
	return err
}
