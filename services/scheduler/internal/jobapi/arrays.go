package jobapi

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Arrays is the ArrayService.
type Arrays struct {
	jobv1.UnsafeArrayServiceServer
	jobs *Jobs
}

// NewArrays serves arrays beside jobs.
func NewArrays(j *Jobs) *Arrays { return &Arrays{jobs: j} }

var _ jobv1.ArrayServiceServer = (*Arrays)(nil)

// element makes one element's specification from the template.
func element(template *jobv1.JobSpec, index int) *jobv1.JobSpec {
	out := proto.CloneOf(template)
	fill := strings.NewReplacer("{index}", strconv.Itoa(index)).Replace
	if out.DisplayName = fill(out.GetDisplayName()); out.GetDisplayName() == template.GetDisplayName() {
		out.DisplayName += "[" + strconv.Itoa(index) + "]"
	}
	if c := out.GetCommand(); c != nil {
		for i := range c.Argv {
			c.Argv[i] = fill(c.Argv[i])
		}
		for k, v := range c.Env {
			c.Env[k] = fill(v)
		}
	}
	if n := out.GetNative(); n != nil {
		n.Seed += int64(index)
	}
	return out
}

// SubmitArray accepts all elements, or none.
func (s *Arrays) SubmitArray(ctx context.Context, in *jobv1.SubmitArrayRequest) (*jobv1.SubmitArrayResponse, error) {
	id, err := uuid.NewV7()
	if err != nil {
		return nil, rpcerr.Internal(err)
	}
	d := &draft{}
	// Elements differ in their words only: what is wrong is wrong with the template.
	if err := d.add(s.jobs, "template", "", in.GetTemplate(), nil); err != nil {
		return nil, err
	}
	if err := d.meet(ctx, s.jobs); err != nil {
		return nil, err
	}
	array := cycle.Array{ID: id.String(), Count: int(in.GetCount()), Max: int(in.GetMaxParallel()), Submitter: caller(ctx)}
	if array.Template, err = proto.Marshal(in.GetTemplate()); err != nil {
		return nil, rpcerr.Internal(err)
	}
	if in.GetValidateOnly() {
		if err := d.refusal(); err != nil {
			return nil, err
		}
		array.ID = ""
		return &jobv1.SubmitArrayResponse{Array: arrayTo(cycle.ArrayView{Array: array})}, nil
	}
	r, err := request(ctx, in.GetRequestId(), "SubmitArray", in)
	if err != nil {
		return nil, err
	}
	if len(d.bad) == 0 {
		if err := s.expand(ctx, d, in, array.ID); err != nil {
			return nil, err
		}
	}
	raw, err := s.jobs.submit(ctx, r, d, cycle.Batch{Array: &array, Encode: func(views []cycle.View) ([]byte, error) {
		v := cycle.ArrayView{Array: array, Counts: map[job.State]int{job.Queued: len(views)}}
		v.Created = views[0].Job.Submitted
		return proto.Marshal(&jobv1.SubmitArrayResponse{Array: arrayTo(v)})
	}})
	return answer(raw, err, &jobv1.SubmitArrayResponse{}, "array")
}

// expand replaces the template of a draft by its elements.
func (s *Arrays) expand(ctx context.Context, d *draft, in *jobv1.SubmitArrayRequest, array string) error {
	first := d.jobs[0]
	first.Submitter, first.Trace, first.Origin.Array = caller(ctx), telemetry.TraceParent(ctx), array
	d.jobs, d.paths = make([]cycle.NewJob, in.GetCount()), make([]string, in.GetCount())
	for i := range d.jobs {
		spec := element(in.GetTemplate(), i)
		payload, err := proto.Marshal(spec)
		if err != nil {
			return rpcerr.Internal(err)
		}
		id, err := uuid.NewV7()
		if err != nil {
			return rpcerr.Internal(err)
		}
		n := first
		n.ID, n.Origin.Index = id.String(), i
		n.Spec.Name, n.Spec.Payload = spec.GetDisplayName(), payload
		d.jobs[i], d.paths[i] = n, "template"
	}
	return nil
}

func arrayTo(v cycle.ArrayView) *jobv1.JobArray {
	out := &jobv1.JobArray{
		ArrayId: v.ID, Count: uint32(v.Count), MaxParallel: uint32(v.Max), Submitter: v.Submitter, CreateTime: timeTo(v.Created),
		Waiting: uint32(v.Counts[job.Queued] + v.Counts[job.Paused]), Running: uint32(v.Counts[job.Starting] + v.Counts[job.Running] + v.Counts[job.Stopping]),
		Succeeded: uint32(v.Counts[job.Succeeded]), Failed: uint32(v.Counts[job.Failed]), Cancelled: uint32(v.Counts[job.Cancelled]),
	}
	template := &jobv1.JobSpec{}
	if err := proto.Unmarshal(v.Template, template); err == nil {
		out.Template = template
	}
	return out
}

// GetArray reads an array with its counts.
func (s *Arrays) GetArray(ctx context.Context, in *jobv1.GetArrayRequest) (*jobv1.GetArrayResponse, error) {
	v, err := s.jobs.engine.Array(ctx, in.GetArrayId())
	if err != nil {
		return nil, wire(err, "array "+in.GetArrayId())
	}
	return &jobv1.GetArrayResponse{Array: arrayTo(v)}, nil
}

// ListArrays reads a page of arrays, newest first.
func (s *Arrays) ListArrays(ctx context.Context, in *jobv1.ListArraysRequest) (*jobv1.ListArraysResponse, error) {
	filter := pagetoken.FilterHash("arrays")
	cursor, err := pagetoken.Decode(filter, in.GetPageToken(), 1)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	before := ""
	if cursor != nil {
		if before = cursor[0]; !isUUID(before) {
			return nil, rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
		}
	}
	limit := pagetoken.Size(in.GetPageSize(), 100, 1000)
	views, err := s.jobs.engine.Arrays(ctx, before, limit+1)
	if err != nil {
		return nil, wire(err, "arrays")
	}
	out := &jobv1.ListArraysResponse{}
	if len(views) > limit {
		views = views[:limit]
		out.NextPageToken = pagetoken.Encode(filter, views[limit-1].ID)
	}
	for _, v := range views {
		out.Arrays = append(out.Arrays, arrayTo(v))
	}
	return out, nil
}

// CancelArray cancels every element that is not final.
func (s *Arrays) CancelArray(ctx context.Context, in *jobv1.CancelArrayRequest) (*jobv1.CancelArrayResponse, error) {
	id := in.GetArrayId()
	if _, err := s.jobs.engine.Array(ctx, id); err != nil {
		return nil, wire(err, "array "+id)
	}
	r, err := request(ctx, in.GetRequestId(), "CancelArray", in)
	if err != nil {
		return nil, err
	}
	_, err = s.jobs.engine.CancelAll(ctx, r, func(j *job.Job) bool { return j.Origin.Array == id },
		reason("array cancelled", caller(ctx), in.GetReason()), func() ([]byte, error) { return []byte{}, nil })
	if err != nil {
		return nil, wire(err, "array "+id)
	}
	v, err := s.jobs.engine.Array(ctx, id)
	if err != nil {
		return nil, wire(err, "array "+id)
	}
	return &jobv1.CancelArrayResponse{Array: arrayTo(v)}, nil
}

// ExplainArray says how the elements stand and what keeps the next one.
func (s *Arrays) ExplainArray(ctx context.Context, in *jobv1.ExplainArrayRequest) (*jobv1.ExplainArrayResponse, error) {
	v, err := s.jobs.engine.Array(ctx, in.GetArrayId())
	if err != nil {
		return nil, wire(err, "array "+in.GetArrayId())
	}
	out := &jobv1.ExplainArrayResponse{Array: arrayTo(v), ExplainTime: timestamppb.Now()}
	a := out.GetArray()
	out.Summary = fmt.Sprintf("%d of %d elements ended well, %d run, %d wait", a.GetSucceeded(), a.GetCount(), a.GetRunning(), a.GetWaiting())
	if n := a.GetFailed() + a.GetCancelled(); n > 0 {
		out.Summary += fmt.Sprintf(", %d failed or were cancelled", n)
	}
	for i, g := range s.jobs.engine.ExplainArray(v.ID) {
		if i == 0 {
			out.Summary += "; most wait because: " + g.Reason
		}
		out.Groups = append(out.Groups, &jobv1.ExplainArrayResponse_Group{Reason: g.Reason, Count: uint32(g.Count), JobIds: g.Jobs})
	}
	return out, nil
}
