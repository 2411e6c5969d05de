// Package jobapi serves people and SDKs: JobService and FleetService. It turns
// protobuf into the scheduler's own words and back, and decides nothing.
package jobapi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/failpoint"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
)

// Jobs is the JobService.
type Jobs struct {
	jobv1.UnsafeJobServiceServer
	engine   *cycle.Engine
	defaults Defaults
	archive  *Archive
}

// NewJobs serves jobs from an engine, and the histories of older ones from an archive;
// nil means that there is none.
func NewJobs(e *cycle.Engine, d Defaults, a *Archive) *Jobs {
	return &Jobs{engine: e, defaults: d, archive: a}
}

var _ jobv1.JobServiceServer = (*Jobs)(nil)

// request makes a mutation idempotent: the digest binds the id to the method,
// the caller and the payload.
func request(ctx context.Context, id, method string, payload proto.Message) (cycle.Request, error) {
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(payload)
	if err != nil {
		return cycle.Request{}, rpcerr.Internal(err)
	}
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "%s\x00%s\x00", method, caller(ctx))
	_, _ = h.Write(raw)
	return cycle.Request{ID: id, Method: method, Digest: h.Sum(nil)}, nil
}

func isUUID(s string) bool {
	_, err := uuid.Parse(s)
	return err == nil && len(s) == 36
}

func caller(ctx context.Context) string {
	if id, ok := identity.FromContext(ctx); ok {
		return id.String()
	}
	return "unknown"
}

// answer decodes a stored or fresh response.
func answer[M proto.Message](raw []byte, err error, into M, what string) (M, error) {
	var none M
	if err != nil {
		return none, wire(err, what)
	}
	if err := proto.Unmarshal(raw, into); err != nil {
		return none, rpcerr.Internal(err)
	}
	return into, nil
}

// SubmitJob accepts a job durably, or says everything that is wrong with it.
func (s *Jobs) SubmitJob(ctx context.Context, in *jobv1.SubmitJobRequest) (*jobv1.SubmitJobResponse, error) {
	failpoint.Hit(failpoint.Received)
	defer failpoint.Hit(failpoint.BeforeAnswer)
	id, err := uuid.NewV7()
	if err != nil {
		return nil, rpcerr.Internal(err)
	}
	d := &draft{}
	if err := d.add(s, "spec", id.String(), in.GetSpec(), nil); err != nil {
		return nil, err
	}
	if err := d.meet(ctx, s); err != nil {
		return nil, err
	}
	for i := range d.jobs {
		d.jobs[i].Submitter, d.jobs[i].Trace = caller(ctx), telemetry.TraceParent(ctx)
	}
	if in.GetValidateOnly() {
		if err := d.refusal(); err != nil {
			return nil, err
		}
		return s.predict(d.jobs[0]), nil
	}
	r, err := request(ctx, in.GetRequestId(), "SubmitJob", in)
	if err != nil {
		return nil, err
	}
	raw, err := s.submit(ctx, r, d, cycle.Batch{Encode: func(v []cycle.View) ([]byte, error) {
		return proto.Marshal(&jobv1.SubmitJobResponse{Job: jobTo(v[0], true)})
	}})
	return answer(raw, err, &jobv1.SubmitJobResponse{}, "job")
}

// predict says where and when a job would run.
func (s *Jobs) predict(n cycle.NewJob) *jobv1.SubmitJobResponse {
	j := job.New("", n.Spec, n.Priority, 0, time.Now())
	j.Submitter, j.After = n.Submitter, n.After
	p := s.engine.Predict(n)
	return &jobv1.SubmitJobResponse{
		Job: jobTo(cycle.View{Record: cycle.Record{Job: j}}, true), Prediction: p.Text, PredictedStartTime: timeTo(p.Start), PredictedAgentName: p.Agent, PredictedDeviceIds: p.Devices,
	}
}

// GetJob reads one job with its attempts.
func (s *Jobs) GetJob(ctx context.Context, in *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	v, err := s.engine.Get(ctx, in.GetJobId())
	if err != nil {
		return nil, wire(err, "job "+in.GetJobId())
	}
	return &jobv1.GetJobResponse{Job: jobTo(v, true)}, nil
}

// ListJobs reads a page of jobs, newest first.
func (s *Jobs) ListJobs(ctx context.Context, in *jobv1.ListJobsRequest) (*jobv1.ListJobsResponse, error) {
	page := cycle.Page{
		ExperimentPrefix: in.GetExperimentPrefix(), Limit: pagetoken.Size(in.GetPageSize(), 100, 1000),
		Array: in.GetArrayId(), Graph: in.GetGraphId(), Schedule: in.GetScheduleId(), Tenant: in.GetTenant(),
	}
	parts := []string{"jobs", in.GetExperimentPrefix(), page.Array, page.Graph, page.Schedule, page.Tenant}
	for _, st := range in.GetStates() {
		page.States = append(page.States, stateOf(st))
		parts = append(parts, st.String())
	}
	filter := pagetoken.FilterHash(parts...)
	cursor, err := pagetoken.Decode(filter, in.GetPageToken(), 1)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	if cursor != nil {
		if page.Before, err = strconv.ParseInt(cursor[0], 10, 64); err != nil {
			return nil, rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
		}
	}
	limit := page.Limit
	page.Limit++ // one more row tells whether there is a next page
	views, err := s.engine.List(ctx, page)
	if err != nil {
		return nil, wire(err, "jobs")
	}
	out := &jobv1.ListJobsResponse{}
	if len(views) > limit {
		views = views[:limit]
		out.NextPageToken = pagetoken.Encode(filter, strconv.FormatInt(views[limit-1].Job.Place, 10))
	}
	for _, v := range views {
		out.Jobs = append(out.Jobs, jobTo(v, false))
	}
	return out, nil
}

// WatchJobs sends the complete state first, then each change.
func (s *Jobs) WatchJobs(in *jobv1.WatchJobsRequest, stream grpc.ServerStreamingServer[jobv1.WatchJobsResponse]) error {
	var revision uint64
	if t := in.GetResumeToken(); t != "" {
		var err error
		if revision, err = strconv.ParseUint(t, 36, 64); err != nil {
			return rpcerr.Invalid(rpcerr.Violation{Field: "resume_token", Description: "is not a token of this service; leave it empty to start with the complete state"})
		}
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	go func() {
		select {
		case <-rpcserver.Draining(ctx):
			cancel(cycle.ErrEnded)
		case <-ctx.Done():
		}
	}()
	err := s.engine.Watch(ctx, revision, in.GetJobIds(), func(f cycle.Frame) error {
		out := &jobv1.WatchJobsResponse{ResumeToken: strconv.FormatUint(f.Revision, 36), Complete: f.Complete}
		for _, v := range f.Views {
			out.Jobs = append(out.Jobs, jobTo(v, true))
		}
		return stream.Send(out)
	})
	if errors.Is(context.Cause(ctx), cycle.ErrEnded) {
		err = cycle.ErrEnded
	}
	return wire(err, "jobs")
}

func reason(head, who, why string) string {
	text := head + " by " + who
	if why != "" {
		text += ": " + why
	}
	return text
}

// CancelJob ends a job; a final one is left as it is.
func (s *Jobs) CancelJob(ctx context.Context, in *jobv1.CancelJobRequest) (*jobv1.CancelJobResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "CancelJob", in)
	if err != nil {
		return nil, err
	}
	r.Encode = func(v cycle.View) ([]byte, error) {
		return proto.Marshal(&jobv1.CancelJobResponse{Job: jobTo(v, true)})
	}
	raw, err := s.engine.Cancel(ctx, r, in.GetJobId(), reason("cancelled", caller(ctx), in.GetReason()))
	return answer(raw, err, &jobv1.CancelJobResponse{}, "job "+in.GetJobId())
}

// PauseJob takes a job off its devices.
func (s *Jobs) PauseJob(ctx context.Context, in *jobv1.PauseJobRequest) (*jobv1.PauseJobResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "PauseJob", in)
	if err != nil {
		return nil, err
	}
	r.Encode = func(v cycle.View) ([]byte, error) { return proto.Marshal(&jobv1.PauseJobResponse{Job: jobTo(v, true)}) }
	raw, err := s.engine.Pause(ctx, r, in.GetJobId(), reason("paused", caller(ctx), in.GetReason()))
	return answer(raw, err, &jobv1.PauseJobResponse{}, "job "+in.GetJobId())
}

// ResumeJob queues a paused job again at its old place.
func (s *Jobs) ResumeJob(ctx context.Context, in *jobv1.ResumeJobRequest) (*jobv1.ResumeJobResponse, error) {
	r, err := request(ctx, in.GetRequestId(), "ResumeJob", in)
	if err != nil {
		return nil, err
	}
	r.Encode = func(v cycle.View) ([]byte, error) {
		return proto.Marshal(&jobv1.ResumeJobResponse{Job: jobTo(v, true)})
	}
	raw, err := s.engine.Resume(ctx, r, in.GetJobId(), caller(ctx))
	return answer(raw, err, &jobv1.ResumeJobResponse{}, "job "+in.GetJobId())
}

// ReprioritizeJob moves a waiting job to another class.
func (s *Jobs) ReprioritizeJob(ctx context.Context, in *jobv1.ReprioritizeJobRequest) (*jobv1.ReprioritizeJobResponse, error) {
	var revision uint64
	if in.GetEtag() != "" {
		var err error
		if revision, err = strconv.ParseUint(in.GetEtag(), 10, 64); err != nil || revision == 0 {
			return nil, rpcerr.Conflict("etag %q is not one of this job; read it again, then retry", in.GetEtag())
		}
	}
	r, err := request(ctx, in.GetRequestId(), "ReprioritizeJob", in)
	if err != nil {
		return nil, err
	}
	r.Encode = func(v cycle.View) ([]byte, error) {
		return proto.Marshal(&jobv1.ReprioritizeJobResponse{Job: jobTo(v, true)})
	}
	raw, err := s.engine.Reprioritize(ctx, r, in.GetJobId(), priorityOf(in.GetPriorityClass()), revision)
	return answer(raw, err, &jobv1.ReprioritizeJobResponse{}, "job "+in.GetJobId())
}

// ExplainJob says why a job is where it is.
func (s *Jobs) ExplainJob(ctx context.Context, in *jobv1.ExplainJobRequest) (*jobv1.ExplainJobResponse, error) {
	x, err := s.engine.Explain(ctx, in.GetJobId())
	if err != nil {
		return nil, wire(err, "job "+in.GetJobId())
	}
	out := &jobv1.ExplainJobResponse{
		Job: jobTo(x.View, true), Summary: x.Summary, AheadJobIds: x.Ahead, AheadCount: int64(x.AheadCount), ExplainTime: timestamppb.New(x.At),
	}
	if x.Wait > 0 {
		out.EstimatedWait = durationpb.New(x.Wait)
	}
	for _, h := range x.Hosts {
		out.Hosts = append(out.Hosts, &jobv1.ExplainJobResponse_HostVerdict{AgentName: h.Agent, Fits: h.Fits, Reason: h.Reason})
	}
	for _, d := range x.Decisions {
		out.Decisions = append(out.Decisions, &jobv1.Decision{Time: timestamppb.New(d.At), Action: d.Action, Reason: d.Reason, Attempt: uint32(d.Attempt)})
	}
	return out, nil
}
