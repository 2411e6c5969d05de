package jobapi

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// maxSpec bounds one specification in bytes: it travels with every report of
// its agent and lies in every watch.
const maxSpec = 1 << 20

// draft is a submit on its way: jobs, and everything that is wrong with them.
type draft struct {
	jobs []cycle.NewJob
	// paths are where each job's specification is in the request.
	paths      []string
	bad        []rpcerr.Violation
	impossible []rpcerr.Violation
}

// add reads one specification. nodes, where there are any, are the ids of a
// graph's nodes by name.
func (d *draft) add(s *Jobs, path, id string, in *jobv1.JobSpec, nodes map[string]string) error {
	if in == nil {
		return nil // the rules in the .proto have said that it is missing
	}
	if n := proto.Size(in); n > maxSpec {
		d.bad = append(d.bad, rpcerr.Violation{Field: path, Description: fmt.Sprintf("has %s; at most %s are kept with a job, put the rest into a file", placement.Size(int64(n)), placement.Size(maxSpec))})
		return nil
	}
	spec, priority, bad, err := specOf(path, in, s.defaults)
	if err != nil {
		return err
	}
	d.bad = append(d.bad, bad...)
	after, bad := afterOf(path, in.GetAfter(), nodes)
	d.bad = append(d.bad, bad...)
	for i, dep := range after {
		if dep.Model != "" && !s.engine.Promotes() {
			d.bad = append(d.bad, rpcerr.Violation{Field: fmt.Sprintf("%s.after[%d].model_promoted", path, i), Description: "this scheduler knows no registry; start it with --registry"})
		}
	}
	if !spec.WaitForCapacity {
		for _, p := range placement.Impossible(s.engine.Nodes(), &spec.Demand) {
			d.impossible = append(d.impossible, rpcerr.Violation{Field: path + ".resources." + p.Path, Description: p.Text})
		}
	}
	d.jobs = append(d.jobs, cycle.NewJob{ID: id, Spec: spec, Priority: priority, After: after})
	d.paths = append(d.paths, path)
	return nil
}

// meet checks the dependencies against the world.
func (d *draft) meet(ctx context.Context, s *Jobs) error {
	unmet, err := s.engine.Unmet(ctx, d.jobs)
	if err != nil {
		return wire(err, "the dependencies")
	}
	d.bad = append(d.bad, d.unmet(unmet)...)
	return nil
}

func (d *draft) unmet(problems []cycle.Unmet) []rpcerr.Violation {
	var out []rpcerr.Violation
	for _, p := range problems {
		out = append(out, rpcerr.Violation{Field: fmt.Sprintf("%s.after[%d]", d.paths[p.Job], p.At), Description: p.Text})
	}
	return out
}

// refusal words everything that is wrong in one error. Demands that no known
// host could hold are a fact about the fleet and not about the fields; when the
// fields are wrong too, everything is listed together.
func (d *draft) refusal() error {
	all := append(append([]rpcerr.Violation(nil), d.bad...), d.impossible...)
	switch {
	case len(all) == 0:
		return nil
	case len(d.bad) > 0:
		return rpcerr.Invalid(all...)
	}
	return rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_DEMAND_IMPOSSIBLE,
		"no known host could ever hold this demand; lower it, or set wait_for_capacity to wait for a larger host").
		With("largest", d.impossible[0].Description).WithViolations(all)
}

// wire gives the error of a submit its form.
func (d *draft) wire(err error) error {
	var unmet *cycle.UnmetError
	if errors.As(err, &unmet) {
		return rpcerr.Invalid(d.unmet(unmet.Problems)...)
	}
	return wire(err, "job")
}

// submit accepts the jobs of a draft, unless the request was answered before:
// what was accepted once is not judged again by a fleet that has changed since.
func (s *Jobs) submit(ctx context.Context, r cycle.Request, d *draft, b cycle.Batch) ([]byte, error) {
	if refused := d.refusal(); refused != nil {
		raw, answered, err := s.engine.Answered(ctx, r)
		switch {
		case err != nil:
			return nil, wire(err, "job")
		case answered:
			return raw, nil
		}
		return nil, refused
	}
	b.Jobs = d.jobs
	raw, err := s.engine.SubmitAll(ctx, r, b)
	if err != nil {
		return nil, d.wire(err)
	}
	return raw, nil
}

// afterOf reads dependencies.
func afterOf(path string, in []*jobv1.Dependency, nodes map[string]string) ([]job.Dependency, []rpcerr.Violation) {
	var out []job.Dependency
	var bad []rpcerr.Violation
	seen := map[string]bool{}
	for i, dep := range in {
		at := fmt.Sprintf("%s.after[%d]", path, i)
		d := job.Dependency{Array: dep.GetArray(), Model: dep.GetModelPromoted().GetModelName(), OnFailure: onFailureOf(dep.GetOnFailure())}
		if name := dep.GetJob(); name != "" {
			switch id, node := nodes[name]; {
			case node:
				d.Job = id
			case isUUID(name):
				d.Job = name
			case nodes != nil:
				bad = append(bad, rpcerr.Violation{Field: at + ".job", Description: fmt.Sprintf("%q is neither a node of this graph nor the id of a job", name)})
			default:
				bad = append(bad, rpcerr.Violation{Field: at + ".job", Description: fmt.Sprintf("%q is not the id of a job; names are for the nodes of a graph", name)})
			}
		}
		if seen[d.String()] {
			bad = append(bad, rpcerr.Violation{Field: at, Description: d.String() + " is named twice"})
		}
		seen[d.String()] = true
		out = append(out, d)
	}
	return out, bad
}

func afterTo(spec *jobv1.JobSpec, after []job.Dependency) []*jobv1.DependencyState {
	var out []*jobv1.DependencyState
	for i, d := range after {
		dep := &jobv1.Dependency{OnFailure: jobv1.DependencyFailure_DEPENDENCY_FAILURE_CANCEL}
		if i < len(spec.GetAfter()) {
			dep = proto.CloneOf(spec.GetAfter()[i])
		}
		if d.Job != "" {
			dep.Condition = &jobv1.Dependency_Job{Job: d.Job}
		}
		state := jobv1.DependencyState_STATE_WAITING
		switch d.State {
		case job.DependencyMet:
			state = jobv1.DependencyState_STATE_MET
		case job.DependencyFailed:
			state = jobv1.DependencyState_STATE_FAILED
		case job.DependencyWaiting:
		}
		out = append(out, &jobv1.DependencyState{Dependency: dep, State: state, Reason: d.Reason})
	}
	return out
}

func onFailureOf(f jobv1.DependencyFailure) job.OnFailure {
	switch f {
	case jobv1.DependencyFailure_DEPENDENCY_FAILURE_IGNORE:
		return job.IgnoreFailure
	case jobv1.DependencyFailure_DEPENDENCY_FAILURE_HOLD:
		return job.HoldDependent
	case jobv1.DependencyFailure_DEPENDENCY_FAILURE_UNSPECIFIED, jobv1.DependencyFailure_DEPENDENCY_FAILURE_CANCEL:
	}
	return job.CancelDependent
}

// Problems is what the rules in the .proto cannot say of a message, for the
// interceptor that enforces them: a person gets everything in one answer.
func (s *Jobs) Problems(ctx context.Context, m proto.Message) []rpcerr.Violation {
	d := &draft{}
	var err error
	switch in := m.(type) {
	case *jobv1.SubmitJobRequest:
		err = d.add(s, "spec", "", in.GetSpec(), nil)
	case *jobv1.SubmitArrayRequest:
		err = d.add(s, "template", "", in.GetTemplate(), nil)
	case *jobv1.SubmitGraphRequest:
		d, _, err = s.graph(in)
	case *jobv1.CreateScheduleRequest:
		d, err = s.scheduleDraft(in.GetSpec(), time.Now())
	case *jobv1.UpdateScheduleRequest:
		d, err = s.scheduleDraft(in.GetSpec(), time.Now())
	default:
		return nil
	}
	if err == nil {
		err = d.meet(ctx, s)
	}
	if err != nil {
		return nil // the rules' own findings are answer enough
	}
	return append(d.bad, d.impossible...)
}
