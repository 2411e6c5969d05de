package lease

import (
	"fmt"
	"math"
	"strings"
	"time"
)

// Ended is everything known about an attempt whose process is gone.
type Ended struct {
	Key
	// Started is false when no trainer process ever ran.
	Started bool
	// ExitCode, Signal: from the supervisor's exit record. Known is false when
	// the record is missing (supervisor killed, power loss).
	Known    bool
	ExitCode int
	Signal   string
	// StopReason is set when the agent stopped the attempt.
	StopReason StopReason
	// StopDetail adds to it, for people.
	StopDetail string
	Finished   *Finished
	OOM        *OOM
	// HostOOMKills counts kernel OOM kills in the attempt's process tree.
	HostOOMKills int
	// Orphaned: the trainer ended because no agent had lived for the orphan timeout.
	Orphaned   bool
	StderrTail string
	// LaunchError says why no process could be started, BadConfiguration that the
	// job's own words are why: no retry would help.
	LaunchError      string
	BadConfiguration string
	Progress         *Progress
}

// Verdict decides how an attempt ended. What the agent itself did comes first
// (it knows why it killed), then an attributed out-of-memory, then the
// trainer's own last frame, then the bare exit status: each source is weaker
// evidence than the one before. One string on stderr is never enough.
func Verdict(e Ended, now time.Time) Exit {
	x := Exit{Key: e.Key, Outcome: Failed, EndTime: now, Progress: e.Progress}
	x.Evidence = Evidence{ExitCode: -1, StderrTail: e.StderrTail}
	if e.Known {
		x.Evidence.Signal = e.Signal
		if e.Signal == "" {
			x.Evidence.ExitCode = e.ExitCode
		}
	}
	finishedWell := e.Finished != nil && e.Finished.Outcome == Succeeded
	switch {
	case finishedWell:
		// A success that raced a stop is a success: its model is committed.
		x.Outcome = Succeeded
		x.Evidence.Message = e.Finished.Message
	case e.OOM != nil && (e.StopReason == "" || e.StopReason == StopOverUse):
		x.Class = e.OOM.Class
		x.Evidence.Message = e.OOM.Message
		x.Evidence.MemorySamples = e.OOM.Samples
	case e.StopReason != "":
		x.Outcome, x.Class, x.Evidence.Message = stopped(e)
	case e.BadConfiguration != "":
		x.Class = ClassBadConfiguration
		x.Evidence.Message, x.Evidence.Problems = e.BadConfiguration, []string{e.BadConfiguration}
	case e.LaunchError != "":
		x.Class = ClassCrash
		x.Evidence.Message = e.LaunchError
	case e.HostOOMKills > 0:
		x.Class = ClassHostOOM
		x.Evidence.Message = fmt.Sprintf("the kernel killed %d process(es) of the attempt for memory", e.HostOOMKills)
	case e.Orphaned && (e.Finished == nil || e.Finished.Outcome != Failed):
		// Nobody's fault in the job: no retry is spent on it.
		x.Class = ClassAgentLost
		x.Evidence.Message = "no agent lived on the host for the orphan timeout; the trainer ended"
	case e.Finished != nil:
		x.Outcome, x.Class = e.Finished.Outcome, e.Finished.Class
		x.Evidence.Message, x.Evidence.Problems = e.Finished.Message, e.Finished.Problems
		if x.Outcome == Failed && x.Class == ClassNone {
			x.Class = ClassCrash
		}
	case !e.Started:
		x.Class = ClassAgentLost
		x.Evidence.Message = "the host went down before the trainer started"
	case !e.Known:
		x.Class = ClassAgentLost
		x.Evidence.Message = "the host or the trainer's supervisor went down; no exit status was recorded"
	case e.Signal != "":
		x.Class = ClassCrash
		x.Evidence.Message = "the trainer was killed by " + e.Signal
	case e.ExitCode == 0:
		x.Class = ClassCrash
		x.Evidence.Message = "the trainer exited with code 0 before it said that it was finished"
	default:
		x.Class = ClassCrash
		x.Evidence.Message = fmt.Sprintf("the trainer exited with code %d", e.ExitCode)
	}
	return x
}

func stopped(e Ended) (Outcome, Class, string) {
	message := "stopped: " + string(e.StopReason)
	if e.StopDetail != "" {
		message += ": " + e.StopDetail
	}
	if e.Finished != nil && e.Finished.Message != "" {
		// A trainer repeats the reason that it was told.
		told := "stopped: " + strings.ReplaceAll(string(e.StopReason), " ", "_")
		if note, repeats := strings.CutPrefix(e.Finished.Message, told); repeats {
			message += note
		} else {
			message += "; " + e.Finished.Message
		}
	}
	class := ClassNone
	switch e.StopReason {
	case StopPreempted:
		class = ClassPreempted
	case StopDrained:
		class = ClassDrained
	case StopExpired, StopFenced:
		class = ClassAgentLost
	case StopTimeLimit:
		class = ClassTimeLimit
	case StopStalled:
		class = ClassStalled
	case StopDataUnavailable:
		class = ClassDataUnavailable
	case StopOverUse:
		return Failed, ClassOwnOOM, message
	case StopQuota:
		return Failed, ClassCrash, message
	case StopCancelled, StopPaused:
	}
	return Stopped, class, message
}

// Threads is the number of compute threads for a CPU demand: at least one,
// whole cores rounded up.
func Threads(cpuMillis int64) int {
	return int(math.Max(1, math.Ceil(float64(cpuMillis)/1000)))
}
