package registryapi

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/pagetoken"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

func (s *runServer) SearchRuns(ctx context.Context, r *registryv1.SearchRunsRequest) (*registryv1.SearchRunsResponse, error) {
	in, err := search(r)
	if err != nil {
		return nil, err
	}
	hash := pagetoken.FilterHash(append([]string{"search", r.GetExperimentPrefix(), r.GetFilter(), r.GetLifecycle().String(), r.GetParentRunId()}, r.GetOrderBy()...)...)
	keys := 2 * len(in.Orders)
	parts, err := pagetoken.Decode(hash, r.GetPageToken(), keys+2)
	if err != nil {
		return nil, rpcerr.PageTokenInvalid(err)
	}
	if parts != nil {
		micros, err := strconv.ParseInt(parts[keys], 10, 64)
		if err != nil || parts[keys+1] == "" || !validPlace(parts[:keys]) {
			return nil, rpcerr.PageTokenInvalid(pagetoken.ErrInvalid)
		}
		in.After = postgres.RunPlace{Keys: parts[:keys], Start: time.UnixMicro(micros).UTC(), ID: parts[keys+1]}
	}
	limit := pageSize(r.GetPageSize(), listPage, listMost)
	in.Limit = limit + 1
	found, err := s.Store.SearchRunPage(ctx, in)
	if err != nil {
		return nil, wire(err)
	}
	out := &registryv1.SearchRunsResponse{}
	var more bool
	if out.Runs, more, err = fit(found, limit, func(f postgres.FoundRun) (*registryv1.Run, error) { return run(f.Run) }); err != nil {
		return nil, err
	}
	if more {
		last := found[len(out.Runs)-1].Place
		out.NextPageToken = pagetoken.Encode(hash, append(append([]string{}, last.Keys...), cursor(last.Start, last.ID)...)...)
	}
	return out, nil
}

// validPlace checks what a forged token could break a statement with: a class must be one
// of three, and text must be text that the database can hold.
func validPlace(keys []string) bool {
	for i := 0; i < len(keys); i += 2 {
		if keys[i] != "0" && keys[i] != "1" && keys[i] != "2" || strings.ContainsRune(keys[i+1], 0) {
			return false
		}
	}
	return true
}

// search reads the filter and the order; it names everything that is wrong with either.
func search(r *registryv1.SearchRunsRequest) (postgres.RunSearch, error) {
	in := postgres.RunSearch{ExperimentPrefix: r.GetExperimentPrefix(), Parent: r.GetParentRunId()}
	var problems []rpcerr.Violation
	bad := func(field string, err error) error {
		var e *filter.Error
		if !errors.As(err, &e) {
			return err
		}
		problems = append(problems, rpcerr.Violation{Field: field, Description: e.Text})
		return nil
	}
	var err error
	if in.Clauses, err = filter.Runs.Parse(r.GetFilter()); err != nil {
		if err := bad("filter", err); err != nil {
			return in, err
		}
	}
	for i, text := range r.GetOrderBy() {
		o, err := filter.Runs.ParseOrder(text)
		if err != nil {
			if err := bad(fmt.Sprintf("order_by[%d]", i), err); err != nil {
				return in, err
			}
		}
		in.Orders = append(in.Orders, o)
	}
	if len(problems) > 0 {
		return in, rpcerr.Invalid(problems...)
	}
	switch r.GetLifecycle() {
	case registryv1.SearchRunsRequest_LIFECYCLE_DELETED:
		in.Lifecycles = []catalog.Lifecycle{catalog.Deleted}
	case registryv1.SearchRunsRequest_LIFECYCLE_ALL:
		in.Lifecycles = []catalog.Lifecycle{catalog.Active, catalog.Deleted}
	case registryv1.SearchRunsRequest_LIFECYCLE_ACTIVE, registryv1.SearchRunsRequest_LIFECYCLE_UNSPECIFIED:
		in.Lifecycles = []catalog.Lifecycle{catalog.Active}
	}
	return in, nil
}

func (s *runServer) CompareRuns(ctx context.Context, r *registryv1.CompareRunsRequest) (*registryv1.CompareRunsResponse, error) {
	found, err := s.Store.GetRuns(ctx, r.GetRunIds())
	if err != nil {
		return nil, wire(err)
	}
	var (
		runs    []catalog.Run
		missing []rpcerr.Violation
	)
	for i, id := range r.GetRunIds() {
		one, ok := found[id]
		if !ok {
			missing = append(missing, rpcerr.Violation{Field: fmt.Sprintf("run_ids[%d]", i), Description: "runs/" + id + " does not exist"})
		}
		runs = append(runs, one)
	}
	if len(missing) > 0 {
		return nil, rpcerr.NotFound("%d of the runs do not exist", len(missing)).WithViolations(missing)
	}
	out := &registryv1.CompareRunsResponse{}
	for _, one := range runs {
		converted, err := run(one)
		if err != nil {
			return nil, err
		}
		converted.Spec, converted.Params, converted.LatestMetrics = nil, nil, nil // the rows have them
		out.Runs = append(out.Runs, converted)
	}
	params := table(runs, func(r catalog.Run) map[string]string { return r.Params })
	for _, key := range catalog.SortedKeys(params) {
		row := &registryv1.CompareRunsResponse_ParamRow{Key: key}
		row.Values, row.Present, row.Different = cells(params[key], len(runs), func(a, b string) bool { return a == b })
		if row.Different || !r.GetOnlyDifferent() {
			out.Params = append(out.Params, row)
		}
	}
	metrics := table(runs, func(r catalog.Run) map[string]float64 {
		m := map[string]float64{}
		for _, l := range r.Latest {
			m[l.Key] = l.Value
		}
		return m
	})
	for _, key := range catalog.SortedKeys(metrics) {
		row := &registryv1.CompareRunsResponse_MetricRow{Key: key}
		row.Values, row.Present, row.Different = cells(metrics[key], len(runs), func(a, b float64) bool {
			return a == b || math.IsNaN(a) && math.IsNaN(b)
		})
		if row.Different || !r.GetOnlyDifferent() {
			out.Metrics = append(out.Metrics, row)
		}
	}
	return out, nil
}

// table turns each run's values into one row per key: column -> value.
func table[V any](runs []catalog.Run, values func(catalog.Run) map[string]V) map[string]map[int]V {
	out := map[string]map[int]V{}
	for i, r := range runs {
		for k, v := range values(r) {
			if out[k] == nil {
				out[k] = map[int]V{}
			}
			out[k][i] = v
		}
	}
	return out
}

func cells[V any](row map[int]V, columns int, equal func(a, b V) bool) (values []V, present []bool, different bool) {
	different = len(row) < columns
	for i := range columns {
		v, ok := row[i]
		values, present = append(values, v), append(present, ok)
		different = different || !equal(v, values[0])
	}
	return values, present, different
}
