package lease_test

import (
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// Each end gets its class from the strongest evidence there is.
func TestVerdict(t *testing.T) {
	t.Parallel()
	finished := func(o lease.Outcome, c lease.Class) *lease.Finished {
		return &lease.Finished{Outcome: o, Class: c, Message: "said"}
	}
	oom := &lease.OOM{Class: lease.ClassNeighbourOOM, Message: "seen", Samples: []int64{1}}
	for _, c := range []struct {
		name    string
		ended   lease.Ended
		outcome lease.Outcome
		class   lease.Class
		says    string
	}{
		{"success", lease.Ended{Started: true, Known: true, Finished: finished(lease.Succeeded, "")}, lease.Succeeded, "", "said"},
		{"success before a stop", lease.Ended{Started: true, Known: true, Finished: finished(lease.Succeeded, ""), StopReason: lease.StopDrained}, lease.Succeeded, "", "said"},
		{"success, then killed", lease.Ended{Started: true, Known: true, ExitCode: -1, Signal: "SIGKILL", Finished: finished(lease.Succeeded, "")}, lease.Succeeded, "", "said"},
		{"code 0 without a word", lease.Ended{Started: true, Known: true}, lease.Failed, lease.ClassCrash, "before it said"},
		{"code", lease.Ended{Started: true, Known: true, ExitCode: 3}, lease.Failed, lease.ClassCrash, "code 3"},
		{"signal", lease.Ended{Started: true, Known: true, ExitCode: -1, Signal: "SIGSEGV"}, lease.Failed, lease.ClassCrash, "SIGSEGV"},
		{"said why", lease.Ended{Started: true, Known: true, ExitCode: 1, Finished: finished(lease.Failed, lease.ClassDiverged)}, lease.Failed, lease.ClassDiverged, "said"},
		{"failed without a class", lease.Ended{Started: true, Known: true, Finished: finished(lease.Failed, "")}, lease.Failed, lease.ClassCrash, "said"},
		{"out of memory", lease.Ended{Started: true, Known: true, ExitCode: 1, OOM: oom, Finished: finished(lease.Failed, lease.ClassCrash)}, lease.Failed, lease.ClassNeighbourOOM, "seen"},
		{"killed by the kernel", lease.Ended{Started: true, Known: true, Signal: "SIGKILL", HostOOMKills: 1}, lease.Failed, lease.ClassHostOOM, "kernel"},
		{"evicted", lease.Ended{Started: true, Known: true, Signal: "SIGKILL", StopReason: lease.StopOverUse, OOM: &lease.OOM{Class: lease.ClassOwnOOM, Message: "over"}}, lease.Failed, lease.ClassOwnOOM, "over"},
		{"orphan", lease.Ended{Started: true, Known: true, ExitCode: 1, Orphaned: true}, lease.Failed, lease.ClassAgentLost, "orphan timeout"},
		{"a trainer that repeats the reason", lease.Ended{Started: true, Known: true, StopReason: lease.StopTimeLimit,
			Finished: &lease.Finished{Outcome: lease.Stopped, Message: "stopped: time_limit (no checkpoint)"}}, lease.Stopped, lease.ClassTimeLimit, "stopped: time limit (no checkpoint)"},
		{"orphan that stopped", lease.Ended{Started: true, Known: true, Orphaned: true, Finished: finished(lease.Stopped, "")}, lease.Failed, lease.ClassAgentLost, "orphan timeout"},
		{"failed, then orphan", lease.Ended{Started: true, Known: true, Orphaned: true, Finished: finished(lease.Failed, lease.ClassDiverged)}, lease.Failed, lease.ClassDiverged, "said"},
		{"over its quota", lease.Ended{Started: true, Known: true, Signal: "SIGKILL", StopReason: lease.StopQuota, StopDetail: "9 of 8"}, lease.Failed, lease.ClassCrash, "quota: 9 of 8"},
		{"preempted", lease.Ended{Started: true, Known: true, Signal: "SIGKILL", StopReason: lease.StopPreempted}, lease.Stopped, lease.ClassPreempted, "preempted"},
		{"preempted politely", lease.Ended{Started: true, Known: true, StopReason: lease.StopPreempted, Finished: finished(lease.Stopped, "")}, lease.Stopped, lease.ClassPreempted, "said"},
		{"cancelled", lease.Ended{Started: true, Known: true, StopReason: lease.StopCancelled}, lease.Stopped, "", "cancelled"},
		{"expired", lease.Ended{Started: true, Known: true, StopReason: lease.StopExpired}, lease.Stopped, lease.ClassAgentLost, "expired"},
		{"never started", lease.Ended{}, lease.Failed, lease.ClassAgentLost, "before the trainer started"},
		{"could not start", lease.Ended{LaunchError: "no such file"}, lease.Failed, lease.ClassCrash, "no such file"},
		{"host went down", lease.Ended{Started: true}, lease.Failed, lease.ClassAgentLost, "no exit status"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			now := time.Unix(5, 0)
			got := lease.Verdict(c.ended, now)
			if got.Outcome != c.outcome || got.Class != c.class || !strings.Contains(got.Evidence.Message, c.says) || !got.EndTime.Equal(now) {
				t.Fatalf("%+v", got)
			}
			if signalled := c.ended.Signal != ""; signalled && got.Evidence.ExitCode != -1 {
				t.Fatalf("exit code %d beside a signal", got.Evidence.ExitCode)
			}
		})
	}
}

// Threads are whole cores, at least one.
func TestThreads(t *testing.T) {
	t.Parallel()
	for millis, want := range map[int64]int{0: 1, 1: 1, 1000: 1, 1001: 2, 8000: 8} {
		if got := lease.Threads(millis); got != want {
			t.Errorf("%d millis: %d threads, want %d", millis, got, want)
		}
	}
}
