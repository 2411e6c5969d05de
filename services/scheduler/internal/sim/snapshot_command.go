package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// Captured is a planner's round as it was kept: what the plan was made from and,
// where it was kept too, the plan.
type Captured struct {
	Snapshot placement.Snapshot
	Plan     *placement.Plan
}

// ReadSnapshot reads a captured round: an object with Snapshot and Plan, or a
// bare snapshot.
func ReadSnapshot(r io.Reader) (Captured, error) {
	raw, err := io.ReadAll(r)
	if err != nil {
		return Captured{}, err
	}
	var both struct {
		Snapshot *placement.Snapshot
		Plan     *placement.Plan
	}
	if err := json.Unmarshal(raw, &both); err != nil {
		return Captured{}, fmt.Errorf("not a captured snapshot: %w", err)
	}
	if both.Snapshot != nil {
		return Captured{*both.Snapshot, both.Plan}, nil
	}
	var s placement.Snapshot
	if err := json.Unmarshal(raw, &s); err != nil {
		return Captured{}, fmt.Errorf("not a captured snapshot: %w", err)
	}
	if s.Now.IsZero() {
		return Captured{}, errors.New("not a captured snapshot: it has no time Now")
	}
	return Captured{Snapshot: s}, nil
}

// RunSnapshot is the command "schedreplay snapshot".
func RunSnapshot(args []string, out io.Writer) error {
	o := newOptions("snapshot")
	path := ""
	if len(args) > 0 && args[0] != "" && args[0][0] != '-' {
		path, args = args[0], args[1:]
	}
	if err := o.parse(args); err != nil {
		return err
	}
	if path == "" {
		path = o.Arg(0)
	}
	if path == "" {
		return errors.New("name the file of the captured snapshot: schedreplay snapshot FILE")
	}
	c := load(o, "snapshot", path, ReadSnapshot)
	if err := o.err(); err != nil {
		return err
	}
	plan := placement.Make(c.Snapshot)
	var lines [][]string
	for _, p := range plan.Place {
		where := p.Node
		for _, s := range p.Shares {
			where += " " + s.Device
		}
		for _, other := range p.Others {
			where += ", " + other.Node
		}
		lines = append(lines, []string{"place", p.Job, where, p.Why})
	}
	for _, p := range plan.Preempt {
		lines = append(lines, []string{"preempt", p.Job, p.Node, p.Why})
	}
	for _, u := range plan.Unplaced {
		lines = append(lines, []string{"wait", u.Job, u.Room, u.Reason})
	}
	for _, w := range plan.Warn {
		lines = append(lines, []string{"warn", w.Job, "", w.Text})
	}
	var notes []string
	same := c.Plan == nil || reflect.DeepEqual(c.Plan.Place, plan.Place) && reflect.DeepEqual(c.Plan.Preempt, plan.Preempt)
	switch {
	case c.Plan == nil:
	case same:
		notes = append(notes, "this is the plan that was made then")
	default:
		notes = append(notes, "THIS IS NOT THE PLAN THAT WAS MADE THEN: another version of the scheduler made it")
	}
	if err := o.print(out, plan, []string{"decision", "job", "where", "why"}, lines, notes...); err != nil {
		return err
	}
	if !same {
		return errors.New("the replayed plan differs from the captured one")
	}
	return nil
}
