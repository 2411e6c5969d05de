package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/tools/internal/jobfile"
)

// maxJobFile bounds a job file: it is written by hand.
const maxJobFile = 1 << 20

// dataServiceTimeout bounds the look at what can be trained on.
const dataServiceTimeout = 3 * time.Second

// candidate is a job file on its way to the scheduler.
type candidate struct {
	name string
	*jobfile.File
}

func (a *app) submitCommand() *cobra.Command {
	var dryRun, watch bool
	var request string
	cmd := &cobra.Command{
		Use:   "submit FILE.yaml...",
		Short: "Check job files and submit them",
		Long: "submit checks every file here, against the data service and at the scheduler before it submits any:\n" +
			"with a problem in one of them, all problems are printed and nothing is submitted.",
		Args: arguments(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request != "" {
				if len(args) > 1 {
					return usageError{errors.New("--request-id names one submission: give one file")}
				}
				if _, err := uuid.Parse(request); err != nil {
					return usageError{fmt.Errorf("--request-id %q is not a UUID", request)}
				}
			}
			// The files are read first: their problems need no mesh.
			candidates, err := readJobFiles(args)
			if err != nil {
				return err
			}
			return a.with(func(ctx context.Context, s *session, _ []string) error {
				return a.submit(ctx, s, candidates, dryRun, watch, request)
			})(cmd, nil)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "check and predict only")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "stay and show progress until the jobs end")
	requestFlag(cmd, &request)
	return cmd
}

func readJobFiles(paths []string) ([]candidate, error) {
	found := &problemsError{}
	var out []candidate
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if info.Size() > maxJobFile {
			return nil, fmt.Errorf("%s has %d bytes: that is no job file", path, info.Size())
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		file, problems := jobfile.Parse(data)
		if problems != nil {
			found.files = append(found.files, fileProblems{path, problems})
			continue
		}
		out = append(out, candidate{path, file})
	}
	if len(found.files) > 0 {
		return nil, found
	}
	return out, nil
}

func (a *app) submit(ctx context.Context, s *session, candidates []candidate, dryRun, watch bool, request string) error {
	if err := warmStarts(ctx, s, candidates); err != nil {
		return err
	}
	predictions, err := a.checkAll(ctx, s, candidates)
	if err != nil {
		return err
	}
	if dryRun {
		return a.showPredictions(candidates, predictions)
	}
	var jobs []*jobv1.Job
	for _, c := range candidates {
		accepted, err := a.submitFile(ctx, s, c, requestID(request))
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		jobs = append(jobs, accepted...)
	}
	if len(jobs) == 0 {
		return nil // schedules only, which have said so themselves
	}
	err = a.show(&jobv1.ListJobsResponse{Jobs: jobs}, func(w io.Writer) error {
		t := newTable("JOB", "NAME", "STATE", "TRACE")
		for _, j := range jobs {
			t.add(j.GetJobId(), j.GetSpec().GetDisplayName(), stateText(j), orDash(traceID(j.GetTraceparent())))
		}
		return t.write(w)
	})
	if err != nil || !watch {
		return err
	}
	return a.watchToEnd(ctx, s, ids(jobs))
}

// warmStarts replaces the model of a warm start by its checkpoint: what a job starts
// from is fixed when it is submitted, whatever is promoted later.
func warmStarts(ctx context.Context, s *session, candidates []candidate) error {
	for _, c := range candidates {
		m := c.WarmModel
		if m == nil {
			continue
		}
		ask := &registryv1.ResolveModelRequest{ModelName: m.Name, Selector: &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION}}
		if m.Version > 0 {
			ask.Selector = &registryv1.ResolveModelRequest_Version{Version: m.Version}
		}
		answer, err := s.Models.ResolveModel(ctx, ask)
		if err != nil {
			return fmt.Errorf("%s: native.warm_start.model: %w", c.name, err)
		}
		c.Spec.GetNative().GetWarmStart().CheckpointId = answer.GetVersion().GetCheckpointId()
	}
	return nil
}

// submitFile submits whatever a file describes and returns the jobs it made.
func (a *app) submitFile(ctx context.Context, s *session, c candidate, request string) (jobs []*jobv1.Job, err error) {
	switch {
	case c.Graph != nil:
		err = s.traced(ctx, "submit", func(ctx context.Context) error {
			answer, err := s.Graphs.SubmitGraph(ctx, &jobv1.SubmitGraphRequest{RequestId: request, Nodes: c.Graph})
			jobs = answer.GetJobs()
			return err
		})
		return jobs, err
	case c.Array != nil:
		var array *jobv1.JobArray
		err = s.traced(ctx, "submit", func(ctx context.Context) error {
			answer, err := s.Arrays.SubmitArray(ctx, &jobv1.SubmitArrayRequest{RequestId: request, Template: c.Spec, Count: c.Array.Count, MaxParallel: c.Array.MaxParallel})
			array = answer.GetArray()
			return err
		})
		if err != nil {
			return nil, err
		}
		return allJobs(ctx, s, &jobv1.ListJobsRequest{ArrayId: array.GetArrayId()}, 0)
	case c.Schedule != nil:
		answer, err := s.Timer.CreateSchedule(ctx, &jobv1.CreateScheduleRequest{RequestId: request, Name: c.Schedule.Name, Spec: c.Schedule.Spec})
		if err != nil {
			return nil, err
		}
		return nil, a.showSchedule(answer.GetSchedule())
	}
	job, err := submitOne(ctx, s, c.Spec, request)
	if err != nil {
		return nil, err
	}
	return []*jobv1.Job{job}, nil
}

// checkFile asks the scheduler what it thinks of a file.
func checkFile(ctx context.Context, s *session, c candidate) (*jobv1.SubmitJobResponse, error) {
	switch {
	case c.Graph != nil:
		_, err := s.Graphs.SubmitGraph(ctx, &jobv1.SubmitGraphRequest{RequestId: newRequestID(), Nodes: c.Graph, ValidateOnly: true})
		return &jobv1.SubmitJobResponse{Prediction: "would be " + c.Kind()}, err
	case c.Array != nil:
		_, err := s.Arrays.SubmitArray(ctx, &jobv1.SubmitArrayRequest{
			RequestId: newRequestID(), Template: c.Spec, Count: c.Array.Count, MaxParallel: c.Array.MaxParallel, ValidateOnly: true,
		})
		return &jobv1.SubmitJobResponse{Prediction: "would be " + c.Kind()}, err
	case c.Schedule != nil:
		answer, err := s.Timer.CreateSchedule(ctx, &jobv1.CreateScheduleRequest{RequestId: newRequestID(), Name: c.Schedule.Name, Spec: c.Schedule.Spec, ValidateOnly: true})
		return &jobv1.SubmitJobResponse{Prediction: "would fire next at " + fireText(answer.GetSchedule())}, err
	}
	return s.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: newRequestID(), Spec: proto.CloneOf(c.Spec), ValidateOnly: true})
}

func submitOne(ctx context.Context, s *session, spec *jobv1.JobSpec, request string) (*jobv1.Job, error) {
	var job *jobv1.Job
	err := s.traced(ctx, "submit", func(ctx context.Context) error {
		answer, err := s.Jobs.SubmitJob(ctx, &jobv1.SubmitJobRequest{RequestId: request, Spec: spec})
		job = answer.GetJob()
		return err
	})
	return job, err
}

func ids(jobs []*jobv1.Job) []string {
	out := make([]string, len(jobs))
	for i, j := range jobs {
		out[i] = j.GetJobId()
	}
	return out
}

// checkAll asks the data service and the scheduler about every file and returns
// the scheduler's predictions, or every problem of every file.
func (a *app) checkAll(ctx context.Context, s *session, candidates []candidate) ([]*jobv1.SubmitJobResponse, error) {
	found := &problemsError{}
	served, err := servedData(ctx, s.at.DataService)
	if err != nil {
		if _, werr := fmt.Fprintf(a.err, "warning: symbols were not checked: %v\n", err); werr != nil {
			return nil, werr
		}
	}
	var predictions []*jobv1.SubmitJobResponse
	for _, c := range candidates {
		problems := dataProblems(c, served)
		answer, err := checkFile(ctx, s, c)
		violations := rpcerr.Violations(err)
		for _, v := range violations {
			problems = append(problems, c.Problem(v.Field, v.Description))
		}
		if err != nil && len(violations) == 0 {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		if len(problems) > 0 {
			found.files = append(found.files, fileProblems{c.name, problems})
		}
		predictions = append(predictions, answer)
	}
	if len(found.files) > 0 {
		return nil, found
	}
	return predictions, nil
}

func (a *app) showPredictions(candidates []candidate, predictions []*jobv1.SubmitJobResponse) error {
	for i, answer := range predictions {
		err := a.show(answer, func(w io.Writer) error {
			_, err := fmt.Fprintf(w, "%s: ok, %s%s\n", candidates[i].name, answer.GetPrediction(), startText(answer))
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// startText says when a job would start, where that is known and not now.
func startText(answer *jobv1.SubmitJobResponse) string {
	if answer.GetPredictedStartTime() == nil {
		return ""
	}
	if wait := time.Until(answer.GetPredictedStartTime().AsTime()); wait > time.Second {
		return "; it would start in about " + spanText(wait)
	}
	return "; it would start at once"
}

// series is one history that the data service has, or refuses.
type series struct {
	Symbol    string   `json:"symbol"`
	Timeframe string   `json:"timeframe"`
	Source    string   `json:"source"`
	Refused   bool     `json:"refused"`
	Problems  []string `json:"problems"`
}

// servedData asks the data service what there is.
func servedData(ctx context.Context, base string) (_ []series, err error) {
	ctx, cancel := context.WithTimeout(ctx, dataServiceTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/symbols", nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the data service answered %s", response.Status)
	}
	var answer struct {
		Symbols []series `json:"symbols"`
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 16<<20)).Decode(&answer); err != nil {
		return nil, fmt.Errorf("the data service's answer: %w", err)
	}
	return answer.Symbols, nil
}

// dataProblems finds what a native job cannot be trained on; served is nil when
// that is unknown.
func dataProblems(c candidate, served []series) []jobfile.Problem {
	var out []jobfile.Problem
	for i, spec := range c.Specs() {
		path := ""
		if c.Graph != nil {
			path = fmt.Sprintf("graph[%d].", i)
		}
		out = append(out, nativeProblems(c, path, spec.GetNative(), served)...)
	}
	return out
}

func nativeProblems(c candidate, path string, native *jobv1.NativeSpec, served []series) []jobfile.Problem {
	if native == nil || served == nil {
		return nil
	}
	frames := map[string][]string{}
	for _, s := range served {
		if s.Symbol == native.GetSymbol() && s.Timeframe == native.GetTimeframe() && s.Refused {
			return []jobfile.Problem{c.Problem(path+"native.symbol", fmt.Sprintf("%s cannot be used: %s", s.Source, strings.Join(s.Problems, "; ")))}
		}
		if !s.Refused {
			frames[s.Symbol] = append(frames[s.Symbol], s.Timeframe)
		}
	}
	have, ok := frames[native.GetSymbol()]
	if !ok {
		names := make([]string, 0, len(frames))
		for name, f := range frames {
			names = append(names, fmt.Sprintf("%s (%s)", name, strings.Join(f, ", ")))
		}
		sort.Strings(names)
		return []jobfile.Problem{c.Problem(path+"native.symbol", fmt.Sprintf("unknown symbol %q; the data service has %s", native.GetSymbol(), strings.Join(names, ", ")))}
	}
	for _, f := range have {
		if f == native.GetTimeframe() {
			return nil
		}
	}
	return []jobfile.Problem{c.Problem(path+"native.timeframe", fmt.Sprintf("unknown timeframe %q; %s has %s", native.GetTimeframe(), native.GetSymbol(), strings.Join(have, ", ")))}
}
