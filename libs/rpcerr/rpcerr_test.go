package rpcerr

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestEverythingButTheCauseCrossesTheWire(t *testing.T) {
	t.Parallel()
	sent := New(codes.ResourceExhausted, errorv1.Reason_REASON_QUOTA_EXCEEDED, "tenant %q is full", "a").
		With("limit", "5").WithRetry(3 * time.Second).WithCause(errors.New("pq: secret table"))
	sent = sent.WithViolations([]Violation{{"spec.count", "9 is too many"}, {"spec.name", "is empty"}})

	// Marshal to be sure that nothing rides along in memory.
	raw, err := proto.Marshal(sent.GRPCStatus().Proto())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "secret table") {
		t.Error("the cause was sent")
	}
	got := FromError(fmt.Errorf("submit: %w", status.FromProto(sent.GRPCStatus().Proto()).Err()))
	if got == nil {
		t.Fatal("no *Error came back")
	}
	want := sent.WithCause(nil)
	// errors.As finds the status inside a wrapped error and adds the wrapper's text.
	got.message = want.message
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if r := ReasonOf(sent.GRPCStatus().Err()); r != errorv1.Reason_REASON_QUOTA_EXCEEDED {
		t.Errorf("reason %v", r)
	}
	if v := Violations(sent.GRPCStatus().Err()); len(v) != 2 {
		t.Errorf("violations %v, want both", v)
	}
}

func TestEveryReasonSurvives(t *testing.T) {
	t.Parallel()
	for n := range errorv1.Reason_name {
		r := errorv1.Reason(n)
		if got := ReasonOf(New(codes.Aborted, r, "x").GRPCStatus().Err()); got != r {
			t.Errorf("%v came back as %v", r, got)
		}
	}
}

func TestMap(t *testing.T) {
	t.Parallel()
	fenced := Fenced("fence 3 is below 4")
	cases := []struct {
		name   string
		err    error
		code   codes.Code
		reason errorv1.Reason
	}{
		{"own, wrapped", fmt.Errorf("commit: %w", fenced), codes.FailedPrecondition, errorv1.Reason_REASON_LEASE_FENCED},
		{"deadline", fmt.Errorf("query: %w", context.DeadlineExceeded), codes.DeadlineExceeded, errorv1.Reason_REASON_DEADLINE_EXCEEDED},
		{"canceled", context.Canceled, codes.Canceled, errorv1.Reason_REASON_DEADLINE_EXCEEDED},
		{"unimplemented", status.Error(codes.Unimplemented, "method Foo not implemented"), codes.Unimplemented, errorv1.Reason_REASON_UNSPECIFIED},
		{"stray status", status.Error(codes.NotFound, "relation jobs"), codes.Internal, errorv1.Reason_REASON_INTERNAL},
		{"driver", errors.New("pq: relation jobs does not exist"), codes.Internal, errorv1.Reason_REASON_INTERNAL},
	}
	for _, c := range cases {
		got := Map(c.err)
		if got.Code() != c.code || got.Reason() != c.reason {
			t.Errorf("%s: %v %v, want %v %v", c.name, got.Code(), got.Reason(), c.code, c.reason)
		}
		if strings.Contains(got.Error(), "relation jobs") {
			t.Errorf("%s: driver text leaks: %v", c.name, got)
		}
	}
	if Map(nil) != nil {
		t.Error("nil must stay nil")
	}
}

func TestTextListsEveryBadField(t *testing.T) {
	t.Parallel()
	err := Invalid(Violation{"a", "is empty"}, Violation{"b[1]", "is negative"})
	for _, want := range []string{"a: is empty", "b[1]: is negative"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err.Error(), want)
		}
	}
}

func TestWithDoesNotChangeItsReceiver(t *testing.T) {
	t.Parallel()
	base := Conflict("etag").With("a", "1")
	_ = base.With("b", "2").WithRetry(time.Second).WithViolations([]Violation{{"f", "d"}})
	if base.Metadata("b") != "" || base.Retry() != 0 || base.Violations() != nil {
		t.Error("a shared error was changed")
	}
}
