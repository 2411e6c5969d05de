package mlflowmirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// uidTag names our run on theirs. It is what a create is searched by before it is sent.
const uidTag = "trainyard.run_uid"

// batchRows is how many rows are read at once; ackRows how many deliveries share one commit.
const (
	batchRows = 256
	ackRows   = 16
)

// patience is how often a row may meet an internal error before it is buried: MLflow answers
// 500 to some requests for ever, and one such row must not hold up its run.
const patience = 30

func (m *Mirror) serveRun(ctx context.Context, lane postgres.Lane, runID string) error {
	lane, err := m.ensureRun(ctx, lane, runID)
	if err != nil {
		return err
	}
	for {
		rows, err := m.Store.LaneRows(ctx, lane.Name, batchRows)
		if err != nil || len(rows) == 0 {
			return err
		}
		if err := m.sendRows(ctx, lane, inOrder(rows)); err != nil {
			return err
		}
	}
}

// inOrder keeps a lane's order but for manifests, which go behind the files they announce; a
// deletion is never passed. A full batch holds its manifests back: more files may follow.
func inOrder(rows []postgres.OutboxRow) []postgres.OutboxRow {
	path := func(r postgres.OutboxRow) string {
		var a outbox.Artifact
		if r.Kind == outbox.KindArtifact {
			_ = json.Unmarshal([]byte(r.Payload), &a) // delivery tells of a payload that is none
		}
		return a.Path
	}
	end := slices.IndexFunc(rows, func(r postgres.OutboxRow) bool { return r.Kind == outbox.KindHidden })
	if end == 0 {
		return rows[:1]
	}
	whole := end < 0 && len(rows) == batchRows
	if end > 0 {
		rows = rows[:end]
	}
	rows = outbox.ManifestsLast(rows, path)
	if whole {
		files := slices.IndexFunc(rows, func(r postgres.OutboxRow) bool {
			return strings.HasSuffix("/"+path(r), "/MLmodel")
		})
		if files > 0 {
			rows = rows[:files]
		}
	}
	return rows
}

func (m *Mirror) sendRows(ctx context.Context, lane postgres.Lane, rows []postgres.OutboxRow) (err error) {
	var arrived []int64
	acknowledge := func() error {
		if len(arrived) == 0 {
			return nil
		}
		seqs := arrived
		arrived = nil
		return m.Store.Delivered(ctx, lane, time.Now(), seqs)
	}
	// What arrived before a failure must not be sent again after it.
	defer func() { err = errors.Join(err, acknowledge()) }()
	for _, row := range rows {
		err := m.deliver(ctx, lane, row)
		var final *refusal
		switch {
		case err == nil:
			m.meters.delivered.WithLabelValues(string(row.Kind)).Inc()
			if arrived = append(arrived, row.Seq); len(arrived) >= ackRows {
				if err := acknowledge(); err != nil {
					return err
				}
			}
			continue
		case errors.As(err, &final) && final.code == "RESOURCE_DOES_NOT_EXIST" && strings.Contains(final.message, lane.RemoteID):
			return errGone
		case errors.As(err, &final) && (!final.passing() || final.status == http.StatusInternalServerError && lane.Failures >= patience):
			if err := m.bury(ctx, row, "", final.Error()); err != nil {
				return err
			}
			continue
		}
		return err
	}
	return nil
}

// bury makes a dead letter of a row, or of the part of it that was refused.
func (m *Mirror) bury(ctx context.Context, row postgres.OutboxRow, part, reason string) error {
	m.Log.Warn("MLflow refused a change for good; see `trainyard mirror dead`", zap.Int64("seq", row.Seq), zap.String("lane", row.Lane),
		zap.String("kind", string(row.Kind)), zap.String("reason", reason))
	return m.Store.Bury(ctx, row, part, reason, time.Now())
}

// runInfo is a run over there.
type runInfo struct {
	ID     string `json:"run_id"`
	Root   string `json:"artifact_uri"`
	Status string `json:"status"`
	Stage  string `json:"lifecycle_stage"`
}

// ensureRun finds the run over there, or makes it. No answer to the search, no create: a
// create whose answer was lost is found by the next search.
func (m *Mirror) ensureRun(ctx context.Context, lane postgres.Lane, runID string) (postgres.Lane, error) {
	if lane.RemoteID != "" {
		return lane, nil
	}
	run, err := m.Store.GetRun(ctx, runID)
	if err != nil {
		return lane, err
	}
	experiment, err := m.ensureExperiment(ctx, run.ExperimentID, run.ExperimentName)
	if err != nil {
		return lane, err
	}
	found, err := m.findRuns(ctx, experiment, runID)
	if err != nil {
		return lane, err
	}
	if len(found) == 0 {
		var made struct {
			Run struct {
				Info runInfo `json:"info"`
			} `json:"run"`
		}
		tags := []outbox.Pair{{Key: uidTag, Value: runID}}
		if run.DisplayName != "" {
			tags = append(tags, outbox.Pair{Key: "mlflow.runName", Value: run.DisplayName})
		}
		err := m.client.send(ctx, http.MethodPost, "runs/create", map[string]any{"experiment_id": experiment, "user_id": run.UserID,
			"start_time": run.StartTime.UnixMilli(), "tags": tags}, &made)
		if err != nil {
			return lane, m.forgetExperiment(ctx, run.ExperimentID, err)
		}
		found = []runInfo{made.Run.Info}
	}
	lane.RemoteID, lane.RemoteRoot = found[0].ID, found[0].Root
	if err := m.Store.MapLane(ctx, lane, lane.RemoteID, lane.RemoteRoot); err != nil {
		return lane, err
	}
	return lane, m.deleteDoubles(ctx, found[1:])
}

// findRuns returns the runs over there that carry our run's name, always in one order.
func (m *Mirror) findRuns(ctx context.Context, experiment, runID string) ([]runInfo, error) {
	var answer struct {
		Runs []struct {
			Info runInfo `json:"info"`
		} `json:"runs"`
	}
	err := m.client.send(ctx, http.MethodPost, "runs/search", map[string]any{"experiment_ids": []string{experiment}, "run_view_type": "ALL",
		"filter": "tags.`" + uidTag + "` = '" + runID + "'", "max_results": 10, "order_by": []string{"attributes.start_time ASC"}}, &answer)
	var out []runInfo
	for _, r := range answer.Runs {
		out = append(out, r.Info)
	}
	slices.SortFunc(out, func(a, b runInfo) int { return strings.Compare(a.ID, b.ID) })
	return out, err
}

// deleteDoubles deletes runs that a create made which took longer than its sender lived.
func (m *Mirror) deleteDoubles(ctx context.Context, doubles []runInfo) error {
	for _, d := range doubles {
		if d.Stage == "deleted" {
			continue
		}
		m.meters.divergence.WithLabelValues("run").Inc()
		m.Log.Warn("a run was made twice over there; the second is deleted", zap.String("remote_run", d.ID))
		if err := m.client.send(ctx, http.MethodPost, "runs/delete", map[string]string{"run_id": d.ID}, nil); err != nil {
			return err
		}
	}
	return nil
}

// ensureExperiment maps an experiment by its name.
func (m *Mirror) ensureExperiment(ctx context.Context, id int64, name string) (string, error) {
	m.experiments.Lock()
	defer m.experiments.Unlock()
	remote, err := m.Store.MappedExperiment(ctx, id)
	if err != nil || remote != "" {
		return remote, err
	}
	var answer struct {
		ID         string `json:"experiment_id"`
		Experiment struct {
			ID    string `json:"experiment_id"`
			Stage string `json:"lifecycle_stage"`
		} `json:"experiment"`
	}
	byName := func() error {
		return m.client.get(ctx, "experiments/get-by-name", url.Values{"experiment_name": {name}}, &answer)
	}
	err = byName()
	if _, none := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); none {
		err = m.client.send(ctx, http.MethodPost, "experiments/create", map[string]string{"name": name}, &answer)
		answer.Experiment.ID, answer.Experiment.Stage = answer.ID, "active"
		if _, taken := refusedAs(err, "RESOURCE_ALREADY_EXISTS"); taken {
			err = byName()
		}
	}
	if err != nil {
		return "", err
	}
	if answer.Experiment.Stage == "deleted" {
		return "", fmt.Errorf("experiment %q is deleted over there: restore it, or delete it for good", name)
	}
	return answer.Experiment.ID, m.Store.MapExperiment(ctx, id, answer.Experiment.ID)
}

// forgetExperiment drops a mapping that the other side does not know any more.
func (m *Mirror) forgetExperiment(ctx context.Context, id int64, err error) error {
	if _, none := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); none {
		return errors.Join(err, m.Store.MapExperiment(ctx, id, ""))
	}
	return err
}

// deliver sends one row. A refusal is returned as it is; the caller tells passing from final.
func (m *Mirror) deliver(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	switch row.Kind {
	case outbox.KindRun:
		return nil // the lane has its run by now
	case outbox.KindMetrics:
		return m.deliverMetrics(ctx, lane, row)
	case outbox.KindParams:
		return m.deliverParams(ctx, lane, row)
	case outbox.KindTags:
		return m.post(ctx, "runs/log-batch", lane, row.Payload)
	case outbox.KindInputs:
		return m.post(ctx, "runs/log-inputs", lane, row.Payload)
	case outbox.KindTagGone:
		var tag outbox.Pair
		if err := json.Unmarshal([]byte(row.Payload), &tag); err != nil {
			return fmt.Errorf("outbox row %d: %w", row.Seq, err)
		}
		err := m.client.send(ctx, http.MethodPost, "runs/delete-tag", map[string]string{"run_id": lane.RemoteID, "key": tag.Key}, nil)
		if r, gone := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); gone && strings.Contains(r.message, tag.Key) {
			return nil // an earlier try deleted it
		}
		return err
	case outbox.KindUpdate:
		return m.deliverUpdate(ctx, lane, row)
	case outbox.KindLifecycle:
		verb := "runs/restore"
		if strings.Contains(row.Payload, string(catalog.Deleted)) {
			verb = "runs/delete"
		}
		return m.client.send(ctx, http.MethodPost, verb, map[string]string{"run_id": lane.RemoteID}, nil)
	case outbox.KindArtifact:
		return m.deliverFile(ctx, lane, row)
	case outbox.KindHidden:
		return m.deleteFiles(ctx, lane, row)
	case outbox.KindModel:
	}
	return fmt.Errorf("outbox row %d has no place in a run's lane: %s", row.Seq, row.Kind)
}

// post sends a frozen payload with the run's id in it.
func (m *Mirror) post(ctx context.Context, route string, lane postgres.Lane, payload string) error {
	body := map[string]json.RawMessage{}
	if err := json.Unmarshal([]byte(payload), &body); err != nil {
		return fmt.Errorf("outbox payload: %w", err)
	}
	id, err := json.Marshal(lane.RemoteID)
	if err != nil {
		return err
	}
	body["run_id"] = id
	return m.client.send(ctx, http.MethodPost, route, body, nil)
}

var remoteStatus = map[catalog.RunState]string{
	catalog.RunRunning: "RUNNING", catalog.RunScheduled: "SCHEDULED", catalog.RunSucceeded: "FINISHED", catalog.RunFailed: "FAILED", catalog.RunStopped: "KILLED",
}

func (m *Mirror) deliverUpdate(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	var u outbox.Update
	if err := json.Unmarshal([]byte(row.Payload), &u); err != nil {
		return fmt.Errorf("outbox row %d: %w", row.Seq, err)
	}
	body := map[string]any{"run_id": lane.RemoteID}
	if u.State != "" {
		body["status"] = remoteStatus[u.State]
	}
	if u.EndTime > 0 {
		body["end_time"] = u.EndTime
	}
	if u.Name != "" {
		body["run_name"] = u.Name
	}
	return m.client.send(ctx, http.MethodPost, "runs/update", body, nil)
}

// deliverParams logs params, which never change: what is there with the same value arrived
// before, what is there with another one is a dead letter of its own.
func (m *Mirror) deliverParams(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	err := m.post(ctx, "runs/log-batch", lane, row.Payload)
	if r, ok := refusedAs(err, "INVALID_PARAMETER_VALUE"); !ok || !strings.Contains(r.message, "Changing param values") {
		return err
	}
	remote, err := m.remoteRun(ctx, lane.RemoteID)
	if err != nil {
		return err
	}
	there := map[string]string{}
	for _, p := range remote.Data.Params {
		there[p.Key] = p.Value
	}
	var batch outbox.Batch
	if err := json.Unmarshal([]byte(row.Payload), &batch); err != nil {
		return fmt.Errorf("outbox row %d: %w", row.Seq, err)
	}
	var refused []outbox.Pair
	for _, p := range batch.Params {
		switch value, stored := there[p.Key]; {
		case !stored:
			if err := m.client.send(ctx, http.MethodPost, "runs/log-parameter", map[string]string{"run_id": lane.RemoteID, "key": p.Key, "value": p.Value}, nil); err != nil {
				return err
			}
		case value != p.Value:
			refused = append(refused, p)
		}
	}
	if len(refused) == 0 {
		return nil
	}
	part, err := json.Marshal(outbox.Batch{Params: refused})
	if err != nil {
		return err
	}
	return m.bury(ctx, row, string(part), fmt.Sprintf("param %q is %q over there and cannot become %q", refused[0].Key, there[refused[0].Key], refused[0].Value))
}

// deliverMetrics logs points. They may be sent again freely but for releases whose database
// refuses a whole batch for one point that it has: then the missing ones go one by one.
func (m *Mirror) deliverMetrics(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	err := m.post(ctx, "runs/log-batch", lane, row.Payload)
	var r *refusal
	if !errors.As(err, &r) || !namesDuplicate(r.message) {
		return err
	}
	var batch outbox.Batch
	if err := json.Unmarshal([]byte(row.Payload), &batch); err != nil {
		return fmt.Errorf("outbox row %d: %w", row.Seq, err)
	}
	there := map[string]map[point]bool{}
	for _, p := range batch.Metrics {
		if there[p.Key] == nil {
			if there[p.Key], err = m.remotePoints(ctx, lane.RemoteID, p.Key); err != nil {
				return err
			}
		}
		if there[p.Key][pointOf(p)] {
			continue
		}
		err := m.client.send(ctx, http.MethodPost, "runs/log-metric", struct {
			RunID string `json:"run_id"`
			outbox.Metric
		}{lane.RemoteID, p}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

func namesDuplicate(message string) bool {
	for _, word := range []string{"UniqueViolation", "UNIQUE constraint", "metric_pk", "Duplicate entry", "IntegrityError"} {
		if strings.Contains(message, word) {
			return true
		}
	}
	return false
}
