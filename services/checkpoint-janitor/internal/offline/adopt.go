package offline

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/localtree"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// adoption is what `checkpoint-janitor adopt` was asked for.
type adoption struct {
	dir, policy, now, form, inventory string
	apply, confirm                    bool
	restore, pin, unpin               string
}

// Adopt runs `checkpoint-janitor adopt DIR`: it brings a directory of old checkpoint files
// under a policy. Without --apply it only says what it would do, and changes nothing.
func Adopt(ctx context.Context, args []string, out, log io.Writer) (err error) {
	var a adoption
	flags := flag.NewFlagSet("checkpoint-janitor adopt", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&a.policy, "policy", "", "policy file; empty is the built-in default")
	flags.BoolVar(&a.apply, "apply", false, "do it: mark, delete what was marked longer than the grace ago, archive; without it nothing is changed")
	flags.BoolVar(&a.confirm, "confirm", false, "accept what the policy's caps hold back")
	flags.StringVar(&a.now, "now", "", "the instant to decide for, RFC 3339; empty is now, and --apply knows no other")
	flags.StringVar(&a.form, "form", "text", "text or json")
	flags.StringVar(&a.inventory, "o", "", "only write the inventory to this file, for checkpoint-janitor plan")
	flags.StringVar(&a.restore, "restore", "", "take the mark of this file back, or unpack it if it is archived")
	flags.StringVar(&a.pin, "pin", "", "keep this file whatever the policy says")
	flags.StringVar(&a.unpin, "unpin", "", "let the policy decide about this file again")
	if err := flags.Parse(args); err != nil {
		return wrong(flags, err, out, "")
	}
	if flags.NArg() != 1 {
		return fmt.Errorf("give one directory, after the options\n%s", usage(flags))
	}
	a.dir = flags.Arg(0)
	disk, err := localtree.OpenDirectory(a.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disk.Close()) }()
	tree := &localtree.Tree{Disk: disk, Log: func(format string, args ...any) { _, _ = fmt.Fprintf(log, format+"\n", args...) }} // a log that fails stops nothing
	now := time.Now().UTC().Truncate(time.Second)
	if a.now != "" {
		if now, err = time.Parse(time.RFC3339, a.now); err != nil {
			return fmt.Errorf("--now is %q; give an instant such as 2026-11-23T12:00:00Z", a.now)
		}
	}
	switch {
	case a.restore != "":
		what, err := tree.Restore(a.restore, now)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s: %s\n", a.restore, what)
		return err
	case a.pin != "" || a.unpin != "":
		if a.pin != "" {
			err = tree.Pin(a.pin, true, now)
		}
		if a.unpin != "" {
			err = errors.Join(err, tree.Pin(a.unpin, false, now))
		}
		return err
	}
	return a.run(ctx, tree, now, out, log)
}

func (a adoption) run(ctx context.Context, tree *localtree.Tree, now time.Time, out, log io.Writer) error {
	if a.form != "text" && a.form != "json" {
		return fmt.Errorf("--form is %q; give text or json", a.form)
	}
	if a.apply && a.now != "" {
		return errors.New("--apply decides for now; --now is for looking ahead only")
	}
	policy, _, err := policyfile.Load(a.policy)
	if err != nil {
		return err
	}
	stock, err := tree.Take(now)
	if err != nil {
		return err
	}
	if a.inventory != "" {
		return writeInventory(a.inventory, stock.Inventory, log)
	}
	plan, err := retention.Decide(policy, stock.Inventory, now)
	if err != nil {
		return err
	}
	refusals := retention.Guard(policy.Caps, plan, stock.Inventory, stock.Circumstances(now, a.confirm))
	if a.form == "json" {
		err = writeJSON(out, plan, refusals)
	} else {
		err = writeText(out, plan, refusals)
	}
	if err != nil {
		return err
	}
	if !a.apply {
		_, err = fmt.Fprintf(log, "this was a dry run: nothing is changed; --apply marks, and deletes what stays marked for %s\n", retention.Age(policy.Grace))
		return err
	}
	if len(refusals) > 0 {
		return fmt.Errorf("nothing is done: %s", refusals[0].Text)
	}
	done, err := tree.Apply(ctx, plan, stock, policy.Grace)
	for _, kept := range done.Kept {
		_, _ = fmt.Fprintf(log, "kept %s\n", kept)
	}
	_, _ = fmt.Fprintf(log, "%d marked, %d marks taken back, %d deleted, %d archived, %s freed\n",
		done.Tombstoned, done.Revived, done.Deleted, done.Archived, retention.Bytes(done.FreedBytes))
	return err
}

func writeInventory(to string, found retention.Inventory, log io.Writer) error {
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(inventory.WriteJSONL(f, found), f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(log, "%d checkpoints with %s written to %s; decide with: checkpoint-janitor plan --inventory %s --now %s\n",
		len(found.Checkpoints), retention.Bytes(found.Usage.UsedBytes), to, to, time.Now().UTC().Format(time.RFC3339))
	return err
}
