package catalog

import (
	"strconv"
	"time"
)

// Stage is where a model version stands. Exactly one version of a model is in
// Production at any time; Staging holds at most one too.
type Stage string

// Stages.
const (
	StageNone       Stage = "NONE"
	StageStaging    Stage = "STAGING"
	StageProduction Stage = "PRODUCTION"
	StageArchived   Stage = "ARCHIVED"
)

// AliasOf is the alias kept in step with a stage, "" for stages that have none.
func AliasOf(s Stage) string {
	switch s {
	case StageProduction:
		return "production"
	case StageStaging:
		return "staging"
	case StageNone, StageArchived:
	}
	return ""
}

// StageOfAlias is AliasOf's inverse for the two reserved aliases.
func StageOfAlias(alias string) (Stage, bool) {
	switch alias {
	case "production":
		return StageProduction, true
	case "staging":
		return StageStaging, true
	}
	return "", false
}

// Model is a named line of versions.
type Model struct {
	Name        string
	Description string
	Revision    int64
	Tags        map[string]string
	Aliases     map[string]int32
	// Policy is what a promotion into Production must meet, nil for nothing.
	Policy     *Policy
	CreateTime time.Time
	UpdateTime time.Time
}

// Version is one version of a model. Its checkpoint and metrics never change; its stage does.
type Version struct {
	Model        string
	Version      int32
	Stage        Stage
	RunID        string
	CheckpointID string
	// LoggedModelID is the MLflow 3 model it was registered from, "" for others.
	LoggedModelID string
	// Source is the URI an MLflow client registered from; "" for versions made from checkpoints.
	Source      string
	Step        int64
	Metrics     map[string]float64
	Aliases     []string
	Tags        map[string]string
	Description string
	Revision    int64
	// TraceParent is the trace of the job that made it; promotions are parented in it.
	TraceParent     string
	CheckpointState CheckpointState
	ManifestDigest  string
	FeatureSchema   string
	// EvaluationWindow is that behind Metrics, "" when nobody said.
	EvaluationWindow string
	Checks           []Check
	Approvals        []Approval
	CreateTime       time.Time
	UpdateTime       time.Time
}

// VersionSubject is the resource name used in errors.
func VersionSubject(model string, version int32) string {
	return "models/" + model + "/versions/" + strconv.Itoa(int(version))
}

// StageChange moves one version.
type StageChange struct {
	Version  int32
	From, To Stage
}

// TransitionPlan is everything one stage move writes, in the order it must be written:
// demotions first, or the partial unique index refuses the promotion.
type TransitionPlan struct {
	Changes []StageChange
	// SetAliases and DropAliases keep the reserved aliases in step.
	SetAliases  map[string]int32
	DropAliases []string
}

// PlanTransition decides a move of version to stage `to`, given the model's current
// holder of each stage. Moving a version to where it is changes nothing. The previous
// Production is archived, the previous Staging goes back to None: it was never live.
func PlanTransition(stages map[int32]Stage, version int32, to Stage) (TransitionPlan, *Error) {
	from, ok := stages[version]
	if !ok {
		return TransitionPlan{}, NotFound("versions/" + strconv.Itoa(int(version)))
	}
	plan := TransitionPlan{SetAliases: map[string]int32{}}
	if from == to {
		return plan, nil
	}
	if to == StageProduction || to == StageStaging {
		for v, s := range stages {
			if v == version || s != to {
				continue
			}
			next := StageArchived
			if to == StageStaging {
				next = StageNone
			}
			plan.Changes = append(plan.Changes, StageChange{v, s, next})
		}
	}
	plan.Changes = append(plan.Changes, StageChange{version, from, to})
	if a := AliasOf(from); a != "" {
		plan.DropAliases = append(plan.DropAliases, a)
	}
	if a := AliasOf(to); a != "" {
		plan.SetAliases[a] = version
	}
	return plan, nil
}
