package mlflowapi

import (
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// number is a float in MLflow's JSON: NaN and the infinities are strings.
type number float64

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) { return n.append(nil), nil }

func (n number) append(b []byte) []byte {
	f := float64(n)
	switch {
	case math.IsNaN(f):
		return append(b, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(b, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(b, `"-Infinity"`...)
	}
	return strconv.AppendFloat(b, f, 'g', -1, 64)
}

type experimentDTO struct {
	ID         string `json:"experiment_id"`
	Name       string `json:"name"`
	Location   string `json:"artifact_location"`
	Lifecycle  string `json:"lifecycle_stage"`
	LastUpdate int64  `json:"last_update_time,omitempty"`
	Creation   int64  `json:"creation_time,omitempty"`
	Tags       []pair `json:"tags,omitempty"`
}

type runInfoDTO struct {
	ID           string `json:"run_id"`
	UUID         string `json:"run_uuid"`
	Name         string `json:"run_name"`
	ExperimentID string `json:"experiment_id"`
	UserID       string `json:"user_id"`
	Status       string `json:"status"`
	Start        int64  `json:"start_time"`
	End          int64  `json:"end_time,omitempty"`
	ArtifactURI  string `json:"artifact_uri"`
	Lifecycle    string `json:"lifecycle_stage"`
}

type metricDTO struct {
	Key       string `json:"key"`
	Value     number `json:"value"`
	Timestamp int64  `json:"timestamp"`
	Step      int64  `json:"step"`
	RunID     string `json:"run_id,omitempty"`

	ModelID       string `json:"model_id,omitempty"`
	DatasetName   string `json:"dataset_name,omitempty"`
	DatasetDigest string `json:"dataset_digest,omitempty"`
}

type runDataDTO struct {
	Metrics []metricDTO `json:"metrics,omitempty"`
	Params  []pair      `json:"params,omitempty"`
	Tags    []pair      `json:"tags,omitempty"`
}

type runInputsDTO struct {
	Datasets []json.RawMessage `json:"dataset_inputs,omitempty"`
}

type runDTO struct {
	Info    runInfoDTO     `json:"info"`
	Data    runDataDTO     `json:"data"`
	Inputs  runInputsDTO   `json:"inputs"`
	Outputs *runOutputsDTO `json:"outputs,omitempty"`
}

type runOutputsDTO struct {
	Models []outputDTO `json:"model_outputs,omitempty"`
}

type aliasDTO struct {
	Alias   string `json:"alias"`
	Version string `json:"version"`
}

type modelDTO struct {
	Name        string       `json:"name"`
	Creation    int64        `json:"creation_timestamp"`
	LastUpdate  int64        `json:"last_updated_timestamp"`
	Description string       `json:"description,omitempty"`
	Latest      []versionDTO `json:"latest_versions,omitempty"`
	Tags        []pair       `json:"tags,omitempty"`
	Aliases     []aliasDTO   `json:"aliases,omitempty"`
}

type versionDTO struct {
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Creation    int64    `json:"creation_timestamp"`
	LastUpdate  int64    `json:"last_updated_timestamp"`
	Stage       string   `json:"current_stage"`
	Description string   `json:"description"`
	Source      string   `json:"source"`
	RunID       string   `json:"run_id"`
	Status      string   `json:"status"`
	Tags        []pair   `json:"tags,omitempty"`
	RunLink     string   `json:"run_link"`
	ModelID     string   `json:"model_id,omitempty"`
	Aliases     []string `json:"aliases,omitempty"`
}

func pairsOf(m map[string]string) []pair {
	out := make([]pair, 0, len(m))
	for _, k := range catalog.SortedKeys(m) {
		out = append(out, pair{k, m[k]})
	}
	return out
}

// ms is a time in MLflow's milliseconds; the zero time is 0.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func lifecycle(l catalog.Lifecycle) string { return strings.ToLower(string(l)) }

func experimentOf(e catalog.Experiment) experimentDTO {
	return experimentDTO{ID: strconv.FormatInt(e.ID, 10), Name: e.Name, Location: rootOf(e.ArtifactRoot, e.ID), Lifecycle: lifecycle(e.Lifecycle),
		LastUpdate: ms(e.UpdateTime), Creation: ms(e.CreateTime), Tags: pairsOf(e.Tags)}
}

func experimentRoot(id int64) string { return artifactScheme + strconv.FormatInt(id, 10) }

// rootOf is an experiment's own root, or the place that it has here.
func rootOf(root string, id int64) string {
	if root != "" {
		return root
	}
	return experimentRoot(id)
}

var runStatuses = map[catalog.RunState]string{
	catalog.RunRunning: "RUNNING", catalog.RunScheduled: "SCHEDULED", catalog.RunSucceeded: "FINISHED",
	catalog.RunFailed: "FAILED", catalog.RunStopped: "KILLED",
}

// runStateOf maps a status as clients write it: a name, or the enum's number.
func runStateOf(status string) (catalog.RunState, bool) {
	numbers := map[string]string{"1": "RUNNING", "2": "SCHEDULED", "3": "FINISHED", "4": "FAILED", "5": "KILLED"}
	if name, ok := numbers[status]; ok {
		status = name
	}
	for state, name := range runStatuses {
		if name == status {
			return state, true
		}
	}
	return "", false
}

func runInfoOf(r catalog.Run) runInfoDTO {
	return runInfoDTO{ID: shownID(r.ID), UUID: shownID(r.ID), Name: r.DisplayName, ExperimentID: strconv.FormatInt(r.ExperimentID, 10), UserID: r.UserID,
		Status: runStatuses[r.State], Start: ms(r.StartTime), End: ms(r.EndTime), ArtifactURI: runRoot(r), Lifecycle: lifecycle(r.Lifecycle)}
}

func runRoot(r catalog.Run) string {
	return rootOf(r.ArtifactRoot, r.ExperimentID) + "/" + shownID(r.ID) + "/artifacts"
}

func runOf(r catalog.Run, inputs []json.RawMessage, outputs []postgres.Output) runDTO {
	out := runDTO{Info: runInfoOf(r), Inputs: runInputsDTO{inputs}, Outputs: &runOutputsDTO{}}
	for _, o := range outputs {
		out.Outputs.Models = append(out.Outputs.Models, outputDTO{o.ModelID, o.Step})
	}
	for _, m := range r.Latest {
		out.Data.Metrics = append(out.Data.Metrics, metricDTO{Key: m.Key, Value: number(m.Value), Timestamp: ms(m.Time), Step: m.Step})
	}
	out.Data.Params, out.Data.Tags = pairsOf(r.Params), pairsOf(r.Tags)
	// Runs of jobs were never tagged by a client; MLflow's tools expect the tag.
	if _, ok := r.Tags["mlflow.runName"]; !ok && r.DisplayName != "" {
		out.Data.Tags = append(out.Data.Tags, pair{"mlflow.runName", r.DisplayName})
	}
	return out
}

var stageNames = map[catalog.Stage]string{
	catalog.StageNone: "None", catalog.StageStaging: "Staging", catalog.StageProduction: "Production", catalog.StageArchived: "Archived",
}

// stageOf accepts a stage in any case.
func stageOf(name string) (catalog.Stage, error) {
	for stage, known := range stageNames {
		if strings.EqualFold(name, known) {
			return stage, nil
		}
	}
	return "", invalid("Invalid Model Version stage: %s. Value must be one of None, Staging, Production, Archived.", name)
}

func versionOf(v catalog.Version) versionDTO {
	source := v.Source
	if source == "" && v.CheckpointID != "" {
		source = checkpointScheme + v.CheckpointID
	}
	return versionDTO{Name: v.Model, Version: strconv.Itoa(int(v.Version)), Creation: ms(v.CreateTime), LastUpdate: ms(v.UpdateTime),
		Stage: stageNames[v.Stage], Description: v.Description, Source: source, RunID: shownID(v.RunID), Status: "READY", ModelID: v.LoggedModelID,
		Tags: pairsOf(v.Tags), Aliases: v.Aliases}
}

func modelOf(m catalog.Model, latest []catalog.Version) modelDTO {
	out := modelDTO{Name: m.Name, Creation: ms(m.CreateTime), LastUpdate: ms(m.UpdateTime), Description: m.Description, Tags: pairsOf(m.Tags)}
	for _, v := range latest {
		out.Latest = append(out.Latest, versionOf(v))
	}
	for _, a := range catalog.SortedKeys(m.Aliases) {
		out.Aliases = append(out.Aliases, aliasDTO{a, strconv.Itoa(int(m.Aliases[a]))})
	}
	return out
}

// latestPerStage keeps the newest version of each stage, in the stages' own order.
func latestPerStage(versions []catalog.Version, stages []catalog.Stage) []catalog.Version {
	if len(stages) == 0 {
		stages = []catalog.Stage{catalog.StageNone, catalog.StageStaging, catalog.StageProduction, catalog.StageArchived}
	}
	var out []catalog.Version
	for _, s := range stages {
		if i := slices.IndexFunc(versions, func(v catalog.Version) bool { return v.Stage == s }); i >= 0 {
			out = append(out, versions[i]) // versions come newest first
		}
	}
	return out
}
