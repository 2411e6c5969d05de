package jobfile

import (
	"fmt"
	"strings"
	"testing"
	"time"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

const native = "\nnative: {specialist: bull, symbol: SPX, timeframe: 1d}\n"

func TestAGraphFile(t *testing.T) {
	t.Parallel()
	f, problems := Parse([]byte(`
graph:
  - node: train
    name: train
    command: {argv: [train]}
  - node: report
    name: report
    command: {argv: [report]}
    after:
      - train
      - {model_promoted: bull, on_failure: hold}
`))
	if problems != nil {
		t.Fatal(problems)
	}
	after := f.Graph[1].GetSpec().GetAfter()
	if len(f.Graph) != 2 || f.Graph[0].GetName() != "train" || after[0].GetJob() != "train" || after[1].GetModelPromoted().GetModelName() != "bull" ||
		after[1].GetOnFailure() != jobv1.DependencyFailure_DEPENDENCY_FAILURE_HOLD {
		t.Errorf("%v", f.Graph)
	}
	// What the scheduler says of a node is said of its line.
	if p := f.Problem("nodes[1].spec.after[0].job", "unknown"); p.Path != "graph[1].after[0].job" || p.Line != 10 {
		t.Errorf("%+v", p)
	}
	if p := f.Problem("nodes", "in a circle"); p.Path != "graph" || p.Line != 2 {
		t.Errorf("%+v", p)
	}
}

func TestAnArrayAndAScheduleFile(t *testing.T) {
	t.Parallel()
	f, problems := Parse([]byte("name: fold-{index}\narray: {count: 20, max_parallel: 4}\ndeadline: 2030-01-02T03:04:05Z\nexpected: 2h\nresources: {devices: [{memory: learned, topology: packed_hosts, count: 16}]}" + native))
	if problems != nil {
		t.Fatal(problems)
	}
	d := f.Spec.GetResources().GetDevices()[0]
	if *f.Array != (Array{20, 4}) || !d.GetLearnMemory() || d.GetTopology() != jobv1.Topology_TOPOLOGY_PACKED_HOSTS ||
		f.Spec.GetDeadline().AsTime().Year() != 2030 || f.Spec.GetExpectedDuration().AsDuration() != 2*time.Hour {
		t.Errorf("%+v %v", f.Array, f.Spec)
	}
	f, problems = Parse([]byte("name: n\nschedule: {name: nightly, cron: 30 2 * * *, time_zone: Europe/Berlin, overlap: replace, catch_up: all, complete_within: 3h}" + native))
	if problems != nil {
		t.Fatal(problems)
	}
	s := f.Schedule
	if s.Name != "nightly" || s.Spec.GetCron() != "30 2 * * *" || s.Spec.GetOverlap() != jobv1.ScheduleSpec_OVERLAP_REPLACE ||
		s.Spec.GetCatchUp() != jobv1.ScheduleSpec_CATCH_UP_ALL || s.Spec.GetJob().GetDisplayName() != "n" {
		t.Errorf("%+v", s)
	}
	if p := f.Problem("spec.cron", "bad"); p.Path != "schedule.cron" || p.Line != 2 {
		t.Errorf("%+v", p)
	}
	if p := f.Problem("spec.job.native.symbol", "bad"); p.Path != "native.symbol" || p.Line != 3 {
		t.Errorf("%+v", p)
	}
}

func TestBadLifeFieldsAreNamed(t *testing.T) {
	t.Parallel()
	_, problems := Parse([]byte("name: n\narray: {max_parallel: 4}\nschedule: {cron: '* * * * *', overlap: sometimes}\ndeadline: tomorrow\nafter: [{job: a, array: b}, {on_failure: shrug}]" + native))
	got := fmt.Sprint(problems)
	for _, want := range []string{"array.count: is missing", "schedule.name: is missing", "schedule.overlap: unknown value", "deadline: \"tomorrow\"", "after[0]: names 2 of", "after[1]: names 0 of", "after[1].on_failure", "\"array\" and \"schedule\" are both there"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in %s", want, got)
		}
	}
}
