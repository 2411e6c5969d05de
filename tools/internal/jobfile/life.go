package jobfile

import (
	"fmt"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

var topologies = map[string]jobv1.Topology{
	"same_host":    jobv1.Topology_TOPOLOGY_SAME_HOST,
	"link_group":   jobv1.Topology_TOPOLOGY_LINK_GROUP,
	"packed_hosts": jobv1.Topology_TOPOLOGY_PACKED_HOSTS,
	"spread_hosts": jobv1.Topology_TOPOLOGY_SPREAD_HOSTS,
}

var failurePolicies = map[string]jobv1.DependencyFailure{
	"cancel": jobv1.DependencyFailure_DEPENDENCY_FAILURE_CANCEL,
	"ignore": jobv1.DependencyFailure_DEPENDENCY_FAILURE_IGNORE,
	"hold":   jobv1.DependencyFailure_DEPENDENCY_FAILURE_HOLD,
}

var overlaps = map[string]jobv1.ScheduleSpec_Overlap{
	"allow":   jobv1.ScheduleSpec_OVERLAP_ALLOW,
	"forbid":  jobv1.ScheduleSpec_OVERLAP_FORBID,
	"replace": jobv1.ScheduleSpec_OVERLAP_REPLACE,
}

var catchUps = map[string]jobv1.ScheduleSpec_CatchUp{
	"latest": jobv1.ScheduleSpec_CATCH_UP_LATEST,
	"all":    jobv1.ScheduleSpec_CATCH_UP_ALL,
	"none":   jobv1.ScheduleSpec_CATCH_UP_NONE,
}

// Array makes many jobs of one file.
type Array struct {
	Count, MaxParallel uint32
}

// Schedule submits the file's job by the clock.
type Schedule struct {
	Name string
	Spec *jobv1.ScheduleSpec
}

// file decodes a document: a job, which may be an array's or a schedule's, or a
// graph of jobs.
func (d *decoder) file(n *yaml.Node) *File {
	f := &File{lines: d.lines}
	n = resolve(n)
	for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == "graph" {
			d.object(n, "", fields{"graph": d.list(func(n *yaml.Node, path string) { f.Graph = append(f.Graph, d.node(n, path)) })})
			if len(f.Graph) == 0 && len(d.problems) == 0 {
				d.add(n, "graph", "has no jobs")
			}
			if d.warmModel.Name != "" {
				d.add(n, "graph", "a job of a graph names a model to start from: give its checkpoint, or submit that job alone")
			}
			return f
		}
	}
	f.Spec = d.job(n, "", fields{
		"array": func(n *yaml.Node, path string) {
			f.Array = &Array{}
			seen := d.object(n, path, fields{"count": d.count(&f.Array.Count, 10000), "max_parallel": d.count(&f.Array.MaxParallel, 10000)})
			d.require(n, seen, path, "count")
			if seen["count"] && f.Array.Count == 0 {
				d.add(n, path+".count", "0 is no array")
			}
		},
		"schedule": func(n *yaml.Node, path string) { f.Schedule = d.schedule(n, path) },
	})
	if f.Schedule != nil {
		f.Schedule.Spec.Job = f.Spec
		if f.Array != nil {
			d.add(n, "", `"array" and "schedule" are both there: a schedule submits one job at a time`)
		}
	}
	return f
}

func (d *decoder) node(n *yaml.Node, path string) *jobv1.GraphNode {
	node := &jobv1.GraphNode{}
	node.Spec = d.job(n, path, fields{"node": d.text(&node.Name)})
	if node.GetName() == "" {
		d.add(n, path+".node", "is missing: other jobs name it in their \"after\"")
	}
	return node
}

// dependency decodes "train", {job: train, on_failure: hold}, {array: ID} or
// {model_promoted: NAME}.
func (d *decoder) dependency(n *yaml.Node, path string) *jobv1.Dependency {
	out := &jobv1.Dependency{}
	var job, array, model string
	if n.Kind == yaml.ScalarNode {
		d.text(&job)(n, path)
		out.Condition = &jobv1.Dependency_Job{Job: job}
		return out
	}
	seen := d.object(n, path, fields{
		"job": d.text(&job), "array": d.text(&array), "model_promoted": d.text(&model), "on_failure": choice(d, &out.OnFailure, failurePolicies),
	})
	given := 0
	for _, name := range []string{"job", "array", "model_promoted"} {
		if seen[name] {
			given++
		}
	}
	if seen != nil && given != 1 {
		d.add(n, path, `names %d of "job", "array" and "model_promoted"; it is one of them`, given)
	}
	switch {
	case job != "":
		out.Condition = &jobv1.Dependency_Job{Job: job}
	case array != "":
		out.Condition = &jobv1.Dependency_Array{Array: array}
	case model != "":
		out.Condition = &jobv1.Dependency_ModelPromoted{ModelPromoted: &jobv1.ModelPromotion{ModelName: model}}
	}
	return out
}

func (d *decoder) schedule(n *yaml.Node, path string) *Schedule {
	s := &Schedule{Spec: &jobv1.ScheduleSpec{}}
	seen := d.object(n, path, fields{
		"name": d.text(&s.Name), "cron": d.text(&s.Spec.Cron), "time_zone": d.text(&s.Spec.TimeZone),
		"overlap": choice(d, &s.Spec.Overlap, overlaps), "catch_up": choice(d, &s.Spec.CatchUp, catchUps), "complete_within": d.duration(&s.Spec.CompleteWithin),
	})
	d.require(n, seen, path, "name", "cron")
	return s
}

// reservation decodes a device's memory: a size, or "learned".
func (d *decoder) reservation(demand *jobv1.DeviceDemand) field {
	size := d.bytes(&demand.MemoryBytes, maxMemory)
	return func(n *yaml.Node, path string) {
		if n.Kind == yaml.ScalarNode && n.Value == "learned" {
			demand.LearnMemory = true
			return
		}
		size(n, path)
	}
}

func (d *decoder) instant(into **timestamppb.Timestamp) field {
	return func(n *yaml.Node, path string) {
		const want = "a time with its zone, such as 2026-12-01T06:00:00Z"
		text, ok := d.scalar(n, path, want)
		if !ok {
			return
		}
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			d.add(n, path, "%q is not %s", text, want)
			return
		}
		*into = timestamppb.New(at)
	}
}

// Kind says what a file submits, for people.
func (f *File) Kind() string {
	switch {
	case f.Graph != nil:
		return fmt.Sprintf("a graph of %d jobs", len(f.Graph))
	case f.Array != nil:
		return fmt.Sprintf("an array of %d jobs", f.Array.Count)
	case f.Schedule != nil:
		return "the schedule " + f.Schedule.Name
	}
	return "a job"
}

// Specs lists every job that the file describes.
func (f *File) Specs() []*jobv1.JobSpec {
	if f.Spec != nil {
		return []*jobv1.JobSpec{f.Spec}
	}
	out := make([]*jobv1.JobSpec, len(f.Graph))
	for i, n := range f.Graph {
		out[i] = n.GetSpec()
	}
	return out
}
