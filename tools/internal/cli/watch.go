package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

const (
	// plainEvery is how often a job may print a line where nothing can be redrawn.
	plainEvery = 3 * time.Second
	// rewatchPause is the wait before a broken watch is resumed.
	rewatchPause = 500 * time.Millisecond
	// rewatchPatience is how long a scheduler may be away before watching gives up.
	rewatchPatience = 2 * time.Minute
	redrawEvery     = time.Second
)

func (a *app) watchCommand() *cobra.Command {
	return &cobra.Command{
		Use: "watch [JOB...]", Short: "Show jobs' progress until they end (all unfinished ones without arguments)",
		Args: arguments(cobra.ArbitraryArgs),
		RunE: a.with(func(ctx context.Context, s *session, args []string) error {
			var watched []string
			for _, ref := range args {
				id, err := jobID(ctx, s, ref)
				if err != nil {
					return err
				}
				watched = append(watched, id)
			}
			if len(args) == 0 {
				jobs, err := allJobs(ctx, s, &jobv1.ListJobsRequest{}, 0)
				if err != nil {
					return err
				}
				for _, j := range jobs {
					if !final(j.GetState()) {
						watched = append(watched, j.GetJobId())
					}
				}
				if len(watched) == 0 {
					_, err := fmt.Fprintln(a.out, "every job has ended")
					return err
				}
			}
			return a.watchToEnd(ctx, s, watched)
		}),
	}
}

// watchToEnd shows progress until every job is final; errJobsFailed when one of
// them did not succeed. A person who interrupts it ends the watching, not the jobs.
func (a *app) watchToEnd(ctx context.Context, s *session, watched []string) error {
	jobs, err := a.follow(ctx, s, watched)
	if err != nil {
		if ctx.Err() != nil {
			_, err = fmt.Fprintln(a.err, "\nstopped watching; the jobs go on: `trainyard watch` shows them again")
		}
		return err
	}
	for _, j := range jobs {
		if j.GetState() != jobv1.Job_STATE_SUCCEEDED {
			return errJobsFailed
		}
	}
	return nil
}

// follow draws the jobs until all are final and returns them in the order given.
func (a *app) follow(ctx context.Context, s *session, watched []string) ([]*jobv1.Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := make(chan []*jobv1.Job)
	failed := make(chan error, 1)
	go func() { failed <- stream(ctx, s, watched, changes) }()

	screen := &screen{out: a.out, tty: a.tty, order: watched, jobs: map[string]*jobv1.Job{}, printed: map[string]printed{}}
	redraw := time.NewTicker(redrawEvery)
	defer redraw.Stop()
	for {
		select {
		case err := <-failed:
			return nil, err
		case batch := <-changes:
			for _, j := range batch {
				screen.jobs[j.GetJobId()] = j
			}
		case <-redraw.C:
		}
		if err := screen.draw(time.Now()); err != nil {
			return nil, err
		}
		if screen.done() {
			return screen.all(), nil
		}
	}
}

// stream receives changes and resumes after a break, so that none is missed.
func stream(ctx context.Context, s *session, watched []string, changes chan<- []*jobv1.Job) error {
	token := ""
	lost := time.Time{}
	for {
		err := streamOnce(ctx, s, watched, &token, changes, func() { lost = time.Time{} })
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if e := rpcerr.FromError(err); e != nil && e.Code() != codes.Unavailable && e.Code() != codes.DeadlineExceeded && e.Code() != codes.Internal {
			if e.Code() != codes.InvalidArgument || token == "" {
				return err
			}
			token = "" // The scheduler does not know the token any more: begin with the complete state.
		}
		if lost.IsZero() {
			lost = time.Now()
		} else if time.Since(lost) > rewatchPatience {
			return fmt.Errorf("the scheduler has been away for %s: %w", rewatchPatience, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(rewatchPause):
		}
	}
}

func streamOnce(ctx context.Context, s *session, watched []string, token *string, changes chan<- []*jobv1.Job, alive func()) error {
	watch, err := s.Jobs.WatchJobs(ctx, &jobv1.WatchJobsRequest{JobIds: watched, ResumeToken: *token})
	if err != nil {
		return err
	}
	for {
		frame, err := watch.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		alive()
		*token = frame.GetResumeToken()
		select {
		case changes <- frame.GetJobs():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// screen shows jobs: redrawn in place on a terminal, line by line elsewhere.
type screen struct {
	out   io.Writer
	tty   bool
	order []string
	jobs  map[string]*jobv1.Job
	// lines is how many lines the last drawing took.
	lines   int
	printed map[string]printed
}

// printed is what a plain log has said about a job.
type printed struct {
	state jobv1.Job_State
	epoch uint32
	at    time.Time
}

func (s *screen) all() []*jobv1.Job {
	var out []*jobv1.Job
	for _, id := range s.order {
		if j := s.jobs[id]; j != nil {
			out = append(out, j)
		}
	}
	return out
}

func (s *screen) done() bool {
	all := s.all()
	for _, j := range all {
		if !final(j.GetState()) {
			return false
		}
	}
	return len(all) == len(s.order)
}

func (s *screen) draw(now time.Time) error {
	all := s.all()
	width := 0
	for _, j := range all {
		width = max(width, len([]rune(j.GetSpec().GetDisplayName())))
	}
	if !s.tty {
		return s.plain(all, width, now)
	}
	var b strings.Builder
	if s.lines > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", s.lines)
	}
	for _, j := range all {
		b.WriteString("\r\x1b[2K" + progressLine(j, width, now) + "\n")
	}
	s.lines = len(all)
	_, err := io.WriteString(s.out, b.String())
	return err
}

// plain prints a job's line when its state changes, and its epochs now and then.
func (s *screen) plain(all []*jobv1.Job, width int, now time.Time) error {
	sort.SliceStable(all, func(i, j int) bool { return final(all[i].GetState()) && !final(all[j].GetState()) })
	for _, j := range all {
		last, epoch := s.printed[j.GetJobId()], j.GetProgress().GetEpoch()
		if j.GetState() == last.state && (epoch == last.epoch || now.Sub(last.at) < plainEvery) {
			continue
		}
		s.printed[j.GetJobId()] = printed{state: j.GetState(), epoch: epoch, at: now}
		if _, err := fmt.Fprintln(s.out, progressLine(j, width, now)); err != nil {
			return err
		}
	}
	return nil
}
