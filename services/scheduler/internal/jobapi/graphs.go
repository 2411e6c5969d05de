package jobapi

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Graphs is the GraphService.
type Graphs struct {
	jobv1.UnsafeGraphServiceServer
	jobs *Jobs
}

// NewGraphs serves graphs beside jobs.
func NewGraphs(j *Jobs) *Graphs { return &Graphs{jobs: j} }

var _ jobv1.GraphServiceServer = (*Graphs)(nil)

// graph reads the nodes of a submit into a draft, with a new id for the graph.
func (s *Jobs) graph(in *jobv1.SubmitGraphRequest) (*draft, string, error) {
	d := &draft{}
	graph, err := uuid.NewV7()
	if err != nil {
		return nil, "", rpcerr.Internal(err)
	}
	ids, order := map[string]string{}, []string{}
	for i, n := range in.GetNodes() {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, "", rpcerr.Internal(err)
		}
		if _, twice := ids[n.GetName()]; twice {
			d.bad = append(d.bad, rpcerr.Violation{Field: fmt.Sprintf("nodes[%d].name", i), Description: fmt.Sprintf("%q is the name of another node", n.GetName())})
			continue
		}
		ids[n.GetName()] = id.String()
		order = append(order, n.GetName())
	}
	after := make(map[string][]string, len(order))
	for i, n := range in.GetNodes() {
		before := len(d.jobs)
		if err := d.add(s, fmt.Sprintf("nodes[%d].spec", i), ids[n.GetName()], n.GetSpec(), ids); err != nil {
			return nil, "", err
		}
		if len(d.jobs) > before {
			d.jobs[before].Origin = job.Origin{Graph: graph.String(), Node: n.GetName()}
		}
		after[n.GetName()] = []string{}
		for _, dep := range n.GetSpec().GetAfter() {
			if dep.GetJob() != "" {
				after[n.GetName()] = append(after[n.GetName()], dep.GetJob())
			}
		}
	}
	if cycle := job.Cycle(order, after); cycle != nil {
		d.bad = append(d.bad, rpcerr.Violation{Field: "nodes", Description: "wait for each other in a circle, so that none could ever start: " + strings.Join(cycle, " -> ")})
	}
	return d, graph.String(), nil
}

// SubmitGraph accepts a whole graph, or nothing of it.
func (s *Graphs) SubmitGraph(ctx context.Context, in *jobv1.SubmitGraphRequest) (*jobv1.SubmitGraphResponse, error) {
	d, id, err := s.jobs.graph(in)
	if err != nil {
		return nil, err
	}
	if err := d.meet(ctx, s.jobs); err != nil {
		return nil, err
	}
	for i := range d.jobs {
		d.jobs[i].Submitter, d.jobs[i].Trace = caller(ctx), telemetry.TraceParent(ctx)
	}
	if in.GetValidateOnly() {
		return &jobv1.SubmitGraphResponse{}, d.refusal()
	}
	r, err := request(ctx, in.GetRequestId(), "SubmitGraph", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.jobs.submit(ctx, r, d, cycle.Batch{Encode: func(views []cycle.View) ([]byte, error) {
		return proto.Marshal(&jobv1.SubmitGraphResponse{GraphId: id, Jobs: jobsTo(views)})
	}})
	return answer(raw, err, &jobv1.SubmitGraphResponse{}, "graph")
}

func jobsTo(views []cycle.View) []*jobv1.Job {
	out := make([]*jobv1.Job, len(views))
	for i, v := range views {
		out[i] = jobTo(v, true)
	}
	return out
}

// maxNodes is the contract's bound on the nodes of a graph.
const maxNodes = 1000

// nodes reads a graph's jobs, the oldest first.
func (s *Graphs) nodes(ctx context.Context, id string) ([]cycle.View, error) {
	views, err := s.jobs.engine.List(ctx, cycle.Page{Graph: id, Limit: maxNodes})
	if err == nil && len(views) == 0 {
		err = cycle.ErrNotFound
	}
	if err != nil {
		return nil, wire(err, "graph "+id)
	}
	for i, k := 0, len(views)-1; i < k; i, k = i+1, k-1 {
		views[i], views[k] = views[k], views[i]
	}
	return views, nil
}

// GetGraph reads a graph with its jobs.
func (s *Graphs) GetGraph(ctx context.Context, in *jobv1.GetGraphRequest) (*jobv1.GetGraphResponse, error) {
	views, err := s.nodes(ctx, in.GetGraphId())
	if err != nil {
		return nil, err
	}
	return &jobv1.GetGraphResponse{Jobs: jobsTo(views), CreateTime: timeTo(views[0].Job.Submitted)}, nil
}

// CancelGraph cancels every node that is not final.
func (s *Graphs) CancelGraph(ctx context.Context, in *jobv1.CancelGraphRequest) (*jobv1.CancelGraphResponse, error) {
	id := in.GetGraphId()
	if _, err := s.nodes(ctx, id); err != nil {
		return nil, err
	}
	r, err := request(ctx, in.GetRequestId(), "CancelGraph", in)
	if err != nil {
		return nil, err
	}
	_, err = s.jobs.engine.CancelAll(ctx, r, func(j *job.Job) bool { return j.Origin.Graph == id },
		reason("graph cancelled", caller(ctx), in.GetReason()), func() ([]byte, error) { return []byte{}, nil })
	if err != nil {
		return nil, wire(err, "graph "+id)
	}
	views, err := s.nodes(ctx, id)
	if err != nil {
		return nil, err
	}
	return &jobv1.CancelGraphResponse{Jobs: jobsTo(views)}, nil
}
