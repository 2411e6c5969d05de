package registryapi

import (
	"context"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	lettersPage = 100
	lettersMost = 1000
)

type mirrorServer struct {
	registryv1.UnsafeMirrorServiceServer
	*api
}

func (s *mirrorServer) GetMirror(ctx context.Context, _ *registryv1.GetMirrorRequest) (*registryv1.GetMirrorResponse, error) {
	m, err := s.Store.MirrorState(ctx)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.GetMirrorResponse{Target: m.URL, Pending: m.Pending, DeadLetters: m.Dead, Lanes: m.Lanes, Uncompared: m.Unverified, Diverged: m.Diverged}
	if m.URL != "" {
		out.SinceTime = timestamppb.New(m.Since)
	}
	if !m.Oldest.IsZero() {
		out.Lag = durationpb.New(max(time.Since(m.Oldest), 0))
	}
	if s.MirrorResting != nil {
		if d := s.MirrorResting(); d > 0 {
			out.Resting = durationpb.New(d)
		}
	}
	for _, p := range m.Problems {
		out.Problems = append(out.Problems, &registryv1.MirrorProblem{Lane: p.Lane, Problem: p.Problem, Failures: p.Failures, RetryTime: timestamppb.New(p.Retry)})
	}
	return out, nil
}

func (s *mirrorServer) ListDeadLetters(ctx context.Context, r *registryv1.ListDeadLettersRequest) (*registryv1.ListDeadLettersResponse, error) {
	hash := pagetoken.FilterHash("dead letters")
	parts, err := pagetoken.Decode(hash, r.GetPageToken(), 1)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	var after int64
	if parts != nil {
		if after, err = strconv.ParseInt(parts[0], 10, 64); err != nil {
			return nil, rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
		}
	}
	limit := pageSize(r.GetPageSize(), lettersPage, lettersMost)
	letters, err := s.Store.DeadLetters(ctx, after, limit+1)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.ListDeadLettersResponse{}
	var more bool
	if out.DeadLetters, more, err = fit(letters, limit, deadLetter); more {
		out.NextPageToken = pagetoken.Encode(hash, strconv.FormatInt(letters[len(out.DeadLetters)-1].Seq, 10))
	}
	return out, err
}

func deadLetter(d postgres.DeadLetter) (*registryv1.DeadLetter, error) {
	return &registryv1.DeadLetter{Sequence: d.Seq, Lane: d.Lane, Kind: string(d.Kind), Payload: d.Payload, Reason: d.Reason,
		CreateTime: timestamppb.New(d.Created), DeadTime: timestamppb.New(d.Dead)}, nil
}

func (s *mirrorServer) RetryDeadLetters(ctx context.Context, r *registryv1.RetryDeadLettersRequest) (*registryv1.RetryDeadLettersResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.MirrorService_RetryDeadLetters_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.RetryDeadLettersResponse, error) {
			n, err := t.Revive(ctx, r.GetSequences())
			return &registryv1.RetryDeadLettersResponse{Retried: n}, err
		})
	return out, wire(err)
}

func (s *mirrorServer) CompareMirror(ctx context.Context, r *registryv1.CompareMirrorRequest) (*registryv1.CompareMirrorResponse, error) {
	out, err := postgres.Once(ctx, s.Store, r.GetRequestId(), registryv1.MirrorService_CompareMirror_FullMethodName, r, time.Now(),
		func(t *postgres.Tx) (*registryv1.CompareMirrorResponse, error) {
			n, err := t.CompareAll(ctx)
			return &registryv1.CompareMirrorResponse{Lanes: n}, err
		})
	return out, wire(err)
}
