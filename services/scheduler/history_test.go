package scheduler_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

// A job that has left the database keeps its story: its attempts, and what was
// decided on it.
func TestTheHistoryOfAJobOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	m := newMesh(t)
	people := m.people()
	host := m.agent("h1")
	host.sync()
	j := m.submit(people, spec(gib))
	host.finish(host.assignment(), 1)
	read := func() *jobv1.GetJobHistoryResponse {
		t.Helper()
		r, err := people.GetJobHistory(t.Context(), &jobv1.GetJobHistoryRequest{JobId: j.GetJobId()})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	fresh := read()
	if fresh.GetArchiveFile() != "" || len(fresh.GetHistory().GetDecisions()) < 3 || fresh.GetHistory().GetDecisions()[0].GetAction() != "accepted" {
		t.Errorf("before it left: %v", fresh)
	}

	m.stop()
	m.history, m.archive = time.Nanosecond, t.TempDir()
	m.start()
	people = m.people()
	for {
		_, err := people.GetJob(t.Context(), &jobv1.GetJobRequest{JobId: j.GetJobId()})
		if status.Code(err) == codes.NotFound {
			break
		}
		if err != nil || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	old := read()
	if old.GetArchiveFile() == "" || old.GetHistory().GetJob().GetState() != jobv1.Job_STATE_SUCCEEDED || len(old.GetHistory().GetJob().GetAttempts()) != 1 ||
		len(old.GetHistory().GetDecisions()) != len(fresh.GetHistory().GetDecisions()) || old.GetHistory().GetJob().GetSpec().GetNative().GetSymbol() != "SPX" {
		t.Errorf("after it left: %v", old)
	}
	_, err := people.GetJobHistory(t.Context(), &jobv1.GetJobHistoryRequest{JobId: uuid.NewString()})
	if status.Code(err) != codes.NotFound {
		t.Errorf("a job that never was: %v", err)
	}
}
