package idempotency_test

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/idempotency"
	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/pg"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

//go:embed testdata/migrations/*.sql
var migrations embed.FS

func TestMain(m *testing.M) { pgtest.Main(m) }

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// submit is a mutation: one row, and an answer that names it.
func submit(ctx context.Context, pool *pgxpool.Pool, id, method, name string, fail error) (*jobv1.SubmitJobResponse, bool, error) {
	var resp *jobv1.SubmitJobResponse
	var replayed bool
	err := pg.InTx(ctx, pool, func(tx pgx.Tx) (err error) {
		req := &jobv1.SubmitJobRequest{RequestId: id, Spec: &jobv1.JobSpec{DisplayName: name}}
		resp, replayed, err = idempotency.Run(ctx, tx, id, method, req, now, func() (*jobv1.SubmitJobResponse, error) {
			var n int
			if err := tx.QueryRow(ctx, "INSERT INTO effect SELECT count(*) + 1 FROM effect RETURNING n").Scan(&n); err != nil {
				return nil, err
			}
			return &jobv1.SubmitJobResponse{Prediction: fmt.Sprintf("%s-%d", name, n)}, fail
		})
		return err
	})
	return resp, replayed, err
}

func effects(t *testing.T, pool *pgxpool.Pool) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), "SELECT count(*) FROM effect").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestARepeatGetsTheFirstAnswer(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "ledger", migrations)
	first, replayed, err := submit(t.Context(), pool, "r1", "Submit", "job", nil)
	if err != nil || replayed {
		t.Fatalf("first: replayed %v, %v", replayed, err)
	}
	again, replayed, err := submit(t.Context(), pool, "r1", "Submit", "job", nil)
	if err != nil || !replayed || !proto.Equal(first, again) {
		t.Errorf("again: %v, replayed %v, %v; want %v", again, replayed, err, first)
	}
	if n := effects(t, pool); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
}

func TestAnIDIsForOneRequestOnly(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "ledger", migrations)
	ann := identity.NewContext(t.Context(), identity.ID{Role: identity.RolePerson, Name: "ann"})
	bob := identity.NewContext(t.Context(), identity.ID{Role: identity.RolePerson, Name: "bob"})
	if _, _, err := submit(ann, pool, "r1", "Submit", "job", nil); err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func() error{
		"another payload": func() error { _, _, err := submit(ann, pool, "r1", "Submit", "other", nil); return err },
		"another method":  func() error { _, _, err := submit(ann, pool, "r1", "Cancel", "job", nil); return err },
		"another caller":  func() error { _, _, err := submit(bob, pool, "r1", "Submit", "job", nil); return err },
	} {
		if err := call(); rpcerr.ReasonOf(err) != errorv1.Reason_REASON_REQUEST_ID_REUSED {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := submit(ann, pool, "", "Submit", "job", nil); len(rpcerr.Violations(err)) != 1 {
		t.Errorf("empty id: %v", err)
	}
	if n := effects(t, pool); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
}

func TestAFailureFreesTheID(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "ledger", migrations)
	boom := errors.New("boom")
	if _, _, err := submit(t.Context(), pool, "r1", "Submit", "job", boom); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if _, replayed, err := submit(t.Context(), pool, "r1", "Submit", "other", nil); err != nil || replayed {
		t.Errorf("after a failure: replayed %v, %v", replayed, err)
	}
	if n := effects(t, pool); n != 1 {
		t.Errorf("%d effects, want 1", n)
	}
}

func TestManyAtOnceHaveOneEffect(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "ledger", migrations)
	const callers = 12
	var wg sync.WaitGroup
	answers := make([]string, callers)
	fresh := make([]bool, callers)
	for i := range callers {
		wg.Go(func() {
			resp, replayed, err := submit(t.Context(), pool, "r1", "Submit", "job", nil)
			if err != nil {
				t.Error(err)
				return
			}
			answers[i], fresh[i] = resp.GetPrediction(), !replayed
		})
	}
	wg.Wait()
	count := 0
	for i := range callers {
		if answers[i] != answers[0] {
			t.Errorf("answers differ: %v", answers)
		}
		if fresh[i] {
			count++
		}
	}
	if n := effects(t, pool); n != 1 || count != 1 {
		t.Errorf("%d effects and %d fresh answers, want 1 and 1", n, count)
	}
}

func TestPurge(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t, "ledger", migrations)
	if _, _, err := submit(t.Context(), pool, "r1", "Submit", "job", nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		before time.Time
		want   int64
	}{{now, 0}, {now.Add(time.Second), 1}} {
		err := pg.InTx(t.Context(), pool, func(tx pgx.Tx) error {
			n, err := idempotency.Purge(t.Context(), tx, c.before)
			if n != c.want {
				t.Errorf("purged %d before %s, want %d", n, c.before, c.want)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSchemaIsWhatTheTestsUse keeps the documented table and the tested one the same.
func TestSchemaIsWhatTheTestsUse(t *testing.T) {
	t.Parallel()
	raw, err := migrations.ReadFile("testdata/migrations/00001_ledger.sql")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), idempotency.Schema) {
		t.Error("idempotency.Schema differs from the migration of the tests")
	}
}
