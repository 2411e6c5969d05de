package retention

import "slices"

// Task is what a sweep does to one checkpoint.
type Task uint8

// The tasks.
const (
	TaskTombstone Task = iota + 1
	TaskRevive
	TaskDelete
	TaskArchive
)

var taskNames = [...]string{"", "tombstone", "revive", "delete", "archive"}

func (t Task) String() string { return nameOf(taskNames[:], uint8(t)) }

// ParseTask is the inverse of [Task.String]; unknown text gives zero.
func ParseTask(text string) Task { return Task(indexOf(taskNames[:], text)) }

// Phase is how far a task has come. It only grows and is stored before the next
// call is made, so a sweep killed anywhere goes on where it was.
type Phase uint8

// The phases.
const (
	// PhasePending has not been asked of the registry, or the answer was lost.
	PhasePending Phase = iota + 1
	// PhaseReleased may lose its bytes: the registry has said so a second time.
	PhaseReleased
	// PhaseErased has no bytes, but the registry has not heard of it.
	PhaseErased
	// PhaseDone is over.
	PhaseDone
	// PhaseRefused is over: the registry, or a newer plan, keeps the checkpoint.
	PhaseRefused
)

var phaseNames = [...]string{"", "pending", "released", "erased", "done", "refused"}

func (p Phase) String() string { return nameOf(phaseNames[:], uint8(p)) }

// ParsePhase is the inverse of [Phase.String]; unknown text gives zero.
func ParsePhase(text string) Phase { return Phase(indexOf(phaseNames[:], text)) }

// Over says that nothing is left to do.
func (p Phase) Over() bool { return p == PhaseDone || p == PhaseRefused }

func nameOf(names []string, i uint8) string {
	if int(i) < len(names) {
		return names[i]
	}
	return ""
}

func indexOf(names []string, text string) int {
	for i, n := range names {
		if i > 0 && n == text {
			return i
		}
	}
	return 0
}

// Call is the next thing to do for an item.
type Call uint8

// The calls.
const (
	CallNone Call = iota
	CallTombstone
	CallRestore
	CallBeginDelete
	CallErase
	CallConfirm
	CallArchive
)

// Item is one checkpoint's part of a sweep.
type Item struct {
	ID    string
	Task  Task
	Phase Phase
}

// Next names the call that brings the item on. A released item starts again at
// BeginDelete and not at the bytes: which objects may go was true when the
// registry said it, and after a crash that is an unknown time ago.
func (i Item) Next() Call {
	switch {
	case i.Phase.Over():
		return CallNone
	case i.Task == TaskTombstone:
		return CallTombstone
	case i.Task == TaskRevive:
		return CallRestore
	case i.Task == TaskArchive:
		return CallArchive
	case i.Phase == PhaseErased:
		return CallConfirm
	default:
		return CallBeginDelete
	}
}

// After is the item once the call has been answered: done says that the call's
// wish holds. A call that failed without an answer changes nothing.
func (i Item) After(call Call, done bool) Item {
	if !done && call != CallErase {
		i.Phase = PhaseRefused
		return i
	}
	switch call {
	case CallTombstone, CallRestore, CallConfirm, CallArchive:
		i.Phase = PhaseDone
	case CallBeginDelete:
		i.Phase = PhaseReleased
	case CallErase:
		if done && i.Phase == PhaseReleased {
			i.Phase = PhaseErased
		}
	}
	return i
}

// Items turns a plan into the work of one sweep. Deletes come after what takes
// nothing away, and only for what an earlier run has tombstoned: the grace is the
// registry's to judge. Archives are last, they take long.
func (p Plan) Items() []Item {
	var early, deletes, archives []Item
	for _, d := range p.Decisions {
		switch {
		case d.Verdict == Drop && (d.State == StateLive || d.State == StateUploading):
			early = append(early, Item{d.ID, TaskTombstone, PhasePending})
		case d.Verdict == Revive:
			early = append(early, Item{d.ID, TaskRevive, PhasePending})
		case d.Verdict == Drop && d.State == StateTombstoned && !d.DueTime.After(p.Now),
			d.Verdict == Gone && d.State == StateDeleting:
			deletes = append(deletes, Item{d.ID, TaskDelete, PhasePending})
		case d.Verdict == Archive && d.State == StateLive:
			archives = append(archives, Item{d.ID, TaskArchive, PhasePending})
		}
	}
	return slices.Concat(early, deletes, archives)
}
