// Package jobfile reads the YAML that a person writes for a job.
//
//	name: bull-spx
//	experiment: specialists/bull
//	priority: interactive            # batch, search, interactive, production
//	model: bull_specialist           # a success registers a version of it
//	native:                          # or "command:"
//	  specialist: bull
//	  symbol: SPX
//	  timeframe: 1d
//	resources:
//	  devices: [{kind: cpu-lane, memory: 256MiB}]
//	  cpu: 1                         # cores; 500m is half a core
//	  memory: 512MiB                 # of the host
//	limits: {time: 2h, stall: 10m}
//	after: [{job: ID, on_failure: hold}, {model_promoted: bull_specialist}]
//	deadline: 2026-12-01T06:00:00Z
//	array: {count: 20, max_parallel: 4}        # one file, many jobs; "{index}" is filled in
//	schedule: {name: nightly, cron: "30 2 * * *", time_zone: Europe/Berlin}
//
// A graph is a file with one list, "graph", of jobs that each have a "node" name,
// which the others' "after" may give.
//
// It does no I/O: bytes in, a job or every problem out, each with its line and
// the path of the field as it is written in the file.
package jobfile

import (
	"fmt"
	"strings"

	"go.yaml.in/yaml/v3"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// Problem is one thing wrong with a file.
type Problem struct {
	// Line counts from 1; 0 means that the whole file is meant, or that a field
	// is missing.
	Line int
	// Path is the field, such as "resources.devices[0].memory"; empty means the file.
	Path        string
	Description string
}

// String returns "line N: path: description".
func (p Problem) String() string {
	var parts []string
	if p.Line > 0 {
		parts = append(parts, fmt.Sprintf("line %d", p.Line))
	}
	if p.Path != "" {
		parts = append(parts, p.Path)
	}
	return strings.Join(append(parts, p.Description), ": ")
}

// File is a job file that can be submitted. Either Spec or Graph is set; with
// Spec, Array or Schedule may be.
type File struct {
	Spec     *jobv1.JobSpec
	Array    *Array
	Schedule *Schedule
	Graph    []*jobv1.GraphNode
	// WarmModel is the model whose checkpoint Spec's warm start takes; it has to be
	// looked up before the job is submitted. Nil when the file names none.
	WarmModel *ModelVersion

	lines map[string]int
}

// ModelVersion names a registered model; version 0 is the one in production.
type ModelVersion struct {
	Name    string
	Version int64
}

// Parse reads one file. With any problem the file is nil.
func Parse(data []byte) (*File, []Problem) {
	var document yaml.Node
	if err := yaml.Unmarshal(data, &document); err != nil {
		return nil, []Problem{{Description: "not YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}}
	}
	if len(document.Content) == 0 {
		return nil, []Problem{{Description: "the file is empty"}}
	}
	d := &decoder{lines: map[string]int{}}
	file := d.file(document.Content[0])
	if len(d.problems) > 0 {
		return nil, d.problems
	}
	if d.warmModel.Name != "" {
		file.WarmModel = &d.warmModel
	}
	return file, nil
}

// Problem turns a service's finding about a field of the JobSpec into one about
// the file.
func (f *File) Problem(field, description string) Problem {
	path := filePath(field)
	line := f.lines[path]
	// A field that is not written has the line of the block it would be in.
	for at := path; line == 0 && strings.ContainsAny(at, ".["); line = f.lines[at] {
		at = at[:strings.LastIndexAny(at, ".[")]
	}
	return Problem{Line: line, Path: path, Description: description}
}

// renamed maps names of the contract to names of the file, longest first where
// one holds another.
var renamed = [][2]string{
	{"resources.host_memory_bytes", "resources.memory"},
	{"resources.cpu_millis", "resources.cpu"},
	{"memory_bytes", "memory"},
	{"display_name", "name"},
	{"priority_class", "priority"},
	{"model_name", "model"},
	{"time_limit", "limits.time"},
	{"stall_limit", "limits.stall"},
	{"retry_policy.max_crashes", "retries.crashes"},
	{"retry_policy.max_host_ooms", "retries.host_ooms"},
	{"retry_policy.max_network_errors", "retries.network_errors"},
	{"retry_policy.min_batch_size", "retries.min_batch_size"},
	{"retry_policy", "retries"},
	{"learner.hidden_sizes", "learner.hidden"},
	{"learner.entropy_coefficient", "learner.entropy"},
	{"learner.value_coefficient", "learner.value"},
	{"expected_duration", "expected"},
	{"mig_profile", "mig"},
	{"learn_memory", "memory"},
}

func filePath(field string) string {
	switch node, spec, inGraph := strings.Cut(field, ".spec."); {
	case inGraph && strings.HasPrefix(node, "nodes["):
		field = "graph" + strings.TrimPrefix(node, "nodes") + "." + spec
	case strings.HasPrefix(field, "nodes"):
		field = "graph" + strings.TrimPrefix(field, "nodes")
	}
	for _, prefix := range []string{"spec.job.", "spec.", "template."} {
		if rest, cut := strings.CutPrefix(field, prefix); cut {
			field = rest
			break
		}
	}
	switch field {
	case "cron", "time_zone", "overlap", "catch_up", "complete_within":
		field = "schedule." + field
	}
	for _, r := range renamed {
		// "_" is part of a name: memory_bytes must not match inside host_memory_bytes.
		at := strings.Index(field, r[0])
		if at < 0 || at > 0 && field[at-1] == '_' {
			continue
		}
		if end := at + len(r[0]); end == len(field) || field[end] == '.' || field[end] == '[' {
			return field[:at] + r[1] + field[end:]
		}
	}
	return field
}
