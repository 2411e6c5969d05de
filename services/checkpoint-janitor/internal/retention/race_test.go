package retention

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// world is a small model of the registry and the store around the sweep: what
// the registry promises (roots looked at again under its lock, a generation of
// bytes per content) and nothing more.
type world struct {
	now    time.Time
	grace  time.Duration
	states map[string]State
	tombs  map[string]time.Time
	facts  map[string]Checkpoint
	bytes  map[string]bool // which checkpoints have their bytes
	holds  map[string]map[string]bool
	serves []string // checkpoints that served, newest last
	broken string   // "" or the check that a mutant leaves out
}

func (w *world) held(id string) bool {
	if len(w.holds[id]) > 0 {
		return true
	}
	return slices.Contains(w.serves[max(0, len(w.serves)-4):], id)
}

func (w *world) inventory() Inventory {
	var v Inventory
	for _, id := range slices.Sorted(maps.Keys(w.facts)) {
		c := w.facts[id]
		c.State, c.TombstoneTime = w.states[id], w.tombs[id]
		if w.held(id) {
			c.References = []Reference{{Kind: RefVersion, Detail: "version of " + id}}
		}
		v.Checkpoints = append(v.Checkpoints, c)
	}
	return v
}

// answer is the registry's side of one call; done is what it says.
func (w *world) answer(call Call, id string) (done bool) {
	s := w.states[id]
	switch call {
	case CallTombstone:
		if s == StateLive && !w.held(id) {
			w.states[id], w.tombs[id] = StateTombstoned, w.now
		}
		return w.states[id] == StateTombstoned
	case CallRestore:
		if s == StateTombstoned {
			w.states[id] = StateLive
		}
		return w.states[id] == StateLive
	case CallBeginDelete:
		ripe := w.now.Sub(w.tombs[id]) >= w.grace
		if s == StateTombstoned && ripe && (w.broken == "second check" || !w.held(id)) {
			w.states[id] = StateDeleting
		}
		return w.states[id] == StateDeleting
	case CallErase:
		w.bytes[id] = false
		return true
	case CallConfirm:
		if s == StateDeleting {
			w.states[id] = StateDeleted
		}
		return w.states[id] == StateDeleted
	}
	return false
}

// promote is the registry's promotion: it takes the same lock, so it refuses
// what is past return and revives what is only tombstoned.
func (w *world) promote(id string) {
	switch w.states[id] {
	case StateLive:
	case StateTombstoned:
		w.states[id] = StateLive
	default:
		return
	}
	w.serves = append(w.serves, id)
}

// janitor is the sweep's durable state; a crash keeps only this.
type janitor struct{ items []Item }

// run plays one random schedule and returns what it lost.
func run(t *rapid.T, broken string) error {
	w := &world{now: testNow, grace: 7 * day, states: map[string]State{}, tombs: map[string]time.Time{}, facts: map[string]Checkpoint{},
		bytes: map[string]bool{}, holds: map[string]map[string]bool{}, broken: broken}
	var j janitor
	policy := DefaultPolicy()
	policy.Rules[0].KeepTop = 2
	commit := func() {
		id := fmt.Sprintf("c%02d", len(w.facts))
		w.facts[id] = Checkpoint{ID: id, Experiment: "bull", RunID: "r", CreateTime: w.now, Sharpe: anyMetric().Draw(t, "sharpe")}
		w.states[id], w.bytes[id] = StateLive, true
	}
	for range 4 {
		commit()
	}
	pick := func() string {
		return rapid.SampledFrom(slices.Sorted(maps.Keys(w.facts))).Draw(t, "checkpoint")
	}
	steps := rapid.SliceOfN(rapid.IntRange(0, 12), 20, 120).Draw(t, "schedule")
	for _, step := range steps {
		switch step {
		case 0:
			commit()
		case 1:
			w.promote(pick())
		case 2: // roll back to what served before
			if n := len(w.serves); n > 1 {
				w.promote(w.serves[n-2])
			}
		case 3:
			if id := pick(); w.states[id] == StateLive || w.states[id] == StateTombstoned {
				w.holds[id] = map[string]bool{"pin": true}
			}
		case 4:
			delete(w.holds, pick())
		case 5:
			w.answer(CallRestore, pick())
		case 6:
			w.now = w.now.Add(time.Duration(rapid.IntRange(1, 24*9).Draw(t, "hours")) * time.Hour)
		case 7:
			if len(j.items) == 0 {
				j.items = mustDecide(t, policy, w.inventory(), w.now).Items()
			}
		default: // one item goes on; the janitor may die before it has noted that
			i := slices.IndexFunc(j.items, func(i Item) bool { return !i.Phase.Over() })
			if i < 0 {
				j.items = nil
				continue
			}
			item := j.items[i]
			for {
				call := item.Next()
				if item.Phase == PhaseReleased {
					call = CallErase // go on in the same life
				}
				if call == CallNone {
					break
				}
				done := w.answer(call, item.ID)
				if rapid.IntRange(0, 3).Draw(t, "crash after the call") == 0 {
					break
				}
				item = item.After(call, done)
				j.items[i] = item
				if rapid.IntRange(0, 3).Draw(t, "crash after the note") == 0 {
					break
				}
			}
		}
		for id := range w.facts {
			if w.held(id) && !w.bytes[id] && w.states[id] != StateDeleted {
				return fmt.Errorf("%s is referenced and has lost its bytes", id)
			}
			if w.held(id) && w.states[id] >= StateDeleting {
				return fmt.Errorf("%s is referenced and is %s", id, w.states[id])
			}
			if w.states[id] == StateLive && !w.bytes[id] {
				return fmt.Errorf("%s is live without bytes", id)
			}
		}
	}
	return nil
}

// Whatever the interleaving of promotions, rollbacks, pins, undo, sweeps and
// crashes, no referenced checkpoint is lost.
func TestNoInterleavingLosesAReferencedCheckpoint(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		if err := run(t, ""); err != nil {
			t.Fatal(err)
		}
	})
}

// The model finds the loss when the registry does not look a second time;
// otherwise the test above would prove nothing.
func TestTheModelKillsItsMutant(t *testing.T) {
	t.Parallel()
	for seed := range 3000 {
		lost := rapid.Custom(func(t *rapid.T) bool { return run(t, "second check") != nil })
		if lost.Example(seed) {
			return
		}
	}
	t.Fatal("3000 schedules without the second check lost nothing: the model is blind")
}
