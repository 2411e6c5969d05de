package mlflowmirror

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

const (
	modelTag   = "trainyard.model_uid"
	versionTag = "trainyard.version_uid"
)

// rounds is how often a model is compared and repaired in one go: their stage transitions
// race with those of other clients.
const rounds = 4

// serveModel makes a model over there equal to ours: read, write what differs, read back.
func (m *Mirror) serveModel(ctx context.Context, lane postgres.Lane, id int64) error {
	rows, err := m.Store.LaneRows(ctx, lane.Name, batchRows)
	if err != nil || len(rows) == 0 {
		return err
	}
	seqs := make([]int64, len(rows))
	for i, r := range rows {
		seqs[i] = r.Seq
	}
	err = m.syncModel(ctx, id, seqs[len(seqs)-1])
	var final *refusal
	if errors.As(err, &final) && (!final.passing() || final.status == http.StatusInternalServerError && lane.Failures >= patience) {
		err = m.bury(ctx, rows[len(rows)-1], "", final.Error())
	}
	if err != nil {
		return err
	}
	m.meters.delivered.WithLabelValues(string(outbox.KindModel)).Add(float64(len(rows)))
	return m.Store.Delivered(ctx, lane, time.Now(), seqs)
}

func (m *Mirror) syncModel(ctx context.Context, id, upTo int64) error {
	for range rounds {
		local, err := m.Store.MirroredModel(ctx, id)
		if err != nil {
			return err
		}
		changed, err := m.modelRound(ctx, local, upTo)
		if err != nil || !changed {
			return err
		}
	}
	return fmt.Errorf("model %d still differs after %d repairs: somebody else changes it over there", id, rounds)
}

// remoteModel is a registered model over there with those of its versions that are ours.
type remoteModel struct {
	Name        string        `json:"name"`
	Description string        `json:"description"`
	Tags        []outbox.Pair `json:"tags"`
	Aliases     []struct {
		Alias   string `json:"alias"`
		Version string `json:"version"`
	} `json:"aliases"`
	versions map[string]remoteVersion
}

type remoteVersion struct {
	Version     string        `json:"version"`
	Stage       string        `json:"current_stage"`
	Description string        `json:"description"`
	Source      string        `json:"source"`
	Tags        []outbox.Pair `json:"tags"`
}

func (v remoteVersion) number() int {
	n, err := strconv.Atoi(v.Version)
	if err != nil {
		return 0
	}
	return n
}

// modelRound compares once and writes what differs; changed says whether it wrote anything.
func (m *Mirror) modelRound(ctx context.Context, local postgres.MirroredModel, upTo int64) (changed bool, err error) {
	remote, err := m.remoteModel(ctx, local)
	if err != nil {
		return false, err
	}
	w := &writer{m: m, ctx: ctx}
	if local.Deleted {
		if remote == nil {
			return false, nil
		}
		for _, v := range remote.versions {
			w.retire(remote.Name, v)
		}
		w.send(http.MethodDelete, "registered-models/delete", map[string]string{"name": remote.Name})
		return false, w.err
	}
	if remote == nil {
		w.send(http.MethodPost, "registered-models/create", map[string]any{"name": local.Model.Name, "description": local.Model.Description,
			"tags": []outbox.Pair{{Key: modelTag, Value: strconv.FormatInt(local.ID, 10)}}})
		return true, w.err
	}
	name := local.Model.Name
	if remote.Name != name {
		w.send(http.MethodPost, "registered-models/rename", map[string]string{"name": remote.Name, "new_name": name})
	}
	if remote.Description != local.Model.Description {
		w.send(http.MethodPatch, "registered-models/update", map[string]string{"name": name, "description": local.Model.Description})
	}
	tags := withFields(local.Model.Tags, modelTag, strconv.FormatInt(local.ID, 10))
	w.tags(tags, remote.Tags, "registered-models", map[string]string{"name": name})
	ours := map[string]bool{}
	for _, v := range local.Versions {
		ours[local.UID(v.Version.Version)] = true
	}
	for uid, v := range remote.versions {
		if !ours[uid] {
			w.retire(name, v)
			w.send(http.MethodDelete, "model-versions/delete", map[string]string{"name": name, "version": v.Version})
		}
	}
	for _, v := range local.Versions {
		uid := local.UID(v.Version.Version)
		there, ok := remote.versions[uid]
		if !ok {
			if err := m.createVersion(ctx, name, uid, v.Version, upTo); err != nil {
				return false, err
			}
			w.changed = true
			continue
		}
		if int32(there.number()) != v.Remote {
			if err := m.Store.MapVersion(ctx, local.ID, v.Version.Version, int32(there.number())); err != nil {
				return false, err
			}
		}
		at := map[string]string{"name": name, "version": there.Version}
		if there.Description != v.Description {
			w.send(http.MethodPatch, "model-versions/update", map[string]string{"name": name, "version": there.Version, "description": v.Description})
		}
		w.tags(withFields(v.Tags, versionTag, uid), there.Tags, "model-versions", at)
	}
	w.stages(local, remote)
	w.aliases(local, remote)
	return w.changed, w.err
}

// remoteModel finds our model over there: by its tag wherever it was renamed to, else by its
// name, which makes a model of that name ours. nil when there is none.
func (m *Mirror) remoteModel(ctx context.Context, local postgres.MirroredModel) (*remoteModel, error) {
	var found struct {
		Models []remoteModel `json:"registered_models"`
	}
	err := m.client.get(ctx, "registered-models/search", url.Values{"filter": {"tags.`" + modelTag + "` = '" + strconv.FormatInt(local.ID, 10) + "'"}, "max_results": {"1"}}, &found)
	if err != nil {
		return nil, err
	}
	if len(found.Models) == 0 && local.Deleted {
		return nil, nil
	}
	name := local.Model.Name
	if len(found.Models) == 1 {
		name = found.Models[0].Name
	}
	var one struct {
		Model remoteModel `json:"registered_model"`
	}
	err = m.client.get(ctx, "registered-models/get", url.Values{"name": {name}}, &one)
	if _, none := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); none {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	one.Model.versions, err = m.remoteVersions(ctx, name)
	return &one.Model, err
}

// remoteVersions reads the versions that carry our tag. Of two with the same tag the first
// stays: the other was made by a create that outlived its sender.
func (m *Mirror) remoteVersions(ctx context.Context, name string) (map[string]remoteVersion, error) {
	out := map[string]remoteVersion{}
	query := url.Values{"filter": {"name = '" + strings.ReplaceAll(name, "'", "''") + "'"}, "max_results": {"1000"}}
	for {
		var answer struct {
			Versions []remoteVersion `json:"model_versions"`
			Next     string          `json:"next_page_token"`
		}
		if err := m.client.get(ctx, "model-versions/search", query, &answer); err != nil {
			return nil, err
		}
		for _, v := range answer.Versions {
			i := slices.IndexFunc(v.Tags, func(t outbox.Pair) bool { return t.Key == versionTag })
			if i < 0 {
				continue
			}
			uid := v.Tags[i].Value
			first, doubled := out[uid]
			if !doubled {
				out[uid] = v
				continue
			}
			if v.number() < first.number() {
				v, first = first, v
				out[uid] = first
			}
			m.meters.divergence.WithLabelValues("version").Inc()
			if err := m.client.send(ctx, http.MethodDelete, "model-versions/delete", map[string]string{"name": name, "version": v.Version}, nil); err != nil {
				return nil, err
			}
		}
		if answer.Next == "" {
			return out, nil
		}
		query.Set("page_token", answer.Next)
	}
}

// createVersion makes a version once its files are there.
func (m *Mirror) createVersion(ctx context.Context, name, uid string, v catalog.Version, upTo int64) error {
	body := map[string]any{"name": name, "source": v.Source, "description": v.Description}
	if v.RunID != "" {
		behind, err := m.Store.LaneHasBefore(ctx, outbox.RunLane(v.RunID), upTo)
		if err != nil {
			return err
		}
		id, root, err := m.Store.RemoteRun(ctx, v.RunID)
		if err != nil {
			return err
		}
		if behind || id == "" {
			return errWait
		}
		body["run_id"] = id
		if body["source"], err = m.source(ctx, v, root); err != nil {
			return err
		}
	}
	tags := make([]outbox.Pair, 0, len(v.Tags)+1)
	for _, k := range catalog.SortedKeys(v.Tags) {
		tags = append(tags, outbox.Pair{Key: k, Value: v.Tags[k]})
	}
	body["tags"] = append(tags, outbox.Pair{Key: versionTag, Value: uid})
	return m.client.send(ctx, http.MethodPost, "model-versions/create", body, nil)
}

// source is where a version's files are over there. The files of a checkpoint, or of a model
// that MLflow 3 logged, go below the artifacts of the run that made them.
func (m *Mirror) source(ctx context.Context, v catalog.Version, root string) (string, error) {
	var (
		files []postgres.Artifact
		dir   string
		err   error
	)
	switch {
	case v.CheckpointID != "":
		dir = "checkpoints/" + v.CheckpointID
		files, err = m.Store.CheckpointArtifacts(ctx, v.CheckpointID)
	case v.LoggedModelID != "":
		dir = "models/" + v.LoggedModelID
		files, err = m.Store.ListModelArtifacts(ctx, v.LoggedModelID)
	default:
		// mlflow-artifacts:/<experiment>/<run>/artifacts/<path>
		if parts := strings.SplitN(v.Source, "/", 5); len(parts) == 5 && parts[0] == "mlflow-artifacts:" && parts[3] == "artifacts" {
			return root + "/" + parts[4], nil
		}
		return v.Source, nil
	}
	if err != nil {
		return "", err
	}
	base, ok := proxied(root)
	if !ok {
		return "", elsewhere(root)
	}
	sending := make([]catalog.File, 0, len(files))
	for _, f := range files {
		sending = append(sending, f.File())
	}
	return root + "/" + dir, m.uploadMissing(ctx, base, dir, sending)
}

// writer sends changes until the first error.
type writer struct {
	m       *Mirror
	ctx     context.Context // of the one round that it lives for
	changed bool
	err     error
}

func (w *writer) send(method, route string, body any) {
	if w.err == nil {
		w.changed = true
		w.err = w.m.client.send(w.ctx, method, route, body, nil)
	}
}

// retire takes a version out of service before it is deleted: a registry that guards what
// serves would refuse the deletion.
func (w *writer) retire(name string, v remoteVersion) {
	if v.Stage == remoteStage[catalog.StageProduction] {
		w.send(http.MethodPost, "model-versions/transition-stage",
			map[string]any{"name": name, "version": v.Version, "stage": remoteStage[catalog.StageArchived], "archive_existing_versions": false})
	}
}

// tags makes tags equal; those of others (mlflow.*) stay when we have none of that name.
func (w *writer) tags(want map[string]string, have []outbox.Pair, noun string, at map[string]string) {
	there := make(map[string]string, len(have))
	for _, p := range have {
		there[p.Key] = p.Value
	}
	for _, k := range catalog.SortedKeys(want) {
		if got, ok := there[k]; !ok || got != want[k] {
			w.send(http.MethodPost, noun+"/set-tag", withFields(at, "key", k, "value", want[k]))
		}
	}
	for _, k := range catalog.SortedKeys(there) {
		if _, ours := want[k]; !ours && !strings.HasPrefix(k, "mlflow.") {
			w.send(http.MethodDelete, noun+"/delete-tag", withFields(at, "key", k))
		}
	}
}

var remoteStage = map[catalog.Stage]string{
	catalog.StageNone: "None", catalog.StageStaging: "Staging", catalog.StageProduction: "Production", catalog.StageArchived: "Archived",
}

// stages moves versions to their stages, leaving a stage before entering one: for readers
// over there no instant has two versions in Production.
func (w *writer) stages(local postgres.MirroredModel, remote *remoteModel) {
	var leave, enter []map[string]any
	for _, v := range local.Versions {
		there, ok := remote.versions[local.UID(v.Version.Version)]
		if !ok || there.Stage == remoteStage[v.Stage] {
			continue
		}
		move := map[string]any{"name": local.Model.Name, "version": there.Version, "stage": remoteStage[v.Stage], "archive_existing_versions": false}
		if v.Stage == catalog.StageProduction || v.Stage == catalog.StageStaging {
			enter = append(enter, move)
		} else {
			leave = append(leave, move)
		}
	}
	for _, move := range append(leave, enter...) {
		w.send(http.MethodPost, "model-versions/transition-stage", move)
	}
}

func (w *writer) aliases(local postgres.MirroredModel, remote *remoteModel) {
	there := map[string]string{}
	for _, a := range remote.Aliases {
		there[a.Alias] = a.Version
	}
	for _, alias := range catalog.SortedKeys(local.Model.Aliases) {
		version, ok := remote.versions[local.UID(local.Model.Aliases[alias])]
		if ok && there[alias] != version.Version {
			w.send(http.MethodPost, "registered-models/alias", map[string]string{"name": local.Model.Name, "alias": alias, "version": version.Version})
		}
	}
	for _, alias := range catalog.SortedKeys(there) {
		if _, ours := local.Model.Aliases[alias]; !ours {
			w.send(http.MethodDelete, "registered-models/alias", map[string]string{"name": local.Model.Name, "alias": alias})
		}
	}
}

// withFields is a copy of m with more fields, given as key, value, key, value.
func withFields(m map[string]string, more ...string) map[string]string {
	out := make(map[string]string, len(m)+len(more)/2)
	for k, v := range m {
		out[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		out[more[i]] = more[i+1]
	}
	return out
}
