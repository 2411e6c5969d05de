package scheduler_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore/s3test"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler"
)

// A job that has left the database keeps its story: its attempts, and what was
// decided on it.
func TestTheHistoryOfAJobOutlivesTheDatabase(t *testing.T) {
	t.Parallel()
	t.Run("directory", func(t *testing.T) {
		t.Parallel()
		outlives(t, t.TempDir(), scheduler.S3{})
	})
	t.Run("bucket", func(t *testing.T) {
		t.Parallel()
		s3 := s3test.Config(t)
		outlives(t, "s3://"+s3.Bucket+"/jobs", scheduler.S3{Endpoint: s3.Endpoint, AccessKey: s3.AccessKey, SecretKey: s3.SecretKey, CA: s3.CA, Insecure: s3.Insecure})
	})
}

func outlives(t *testing.T, archive string, s3 scheduler.S3) {
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
	m.history, m.archive, m.s3 = time.Nanosecond, archive, s3
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
