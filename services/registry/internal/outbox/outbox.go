// Package outbox freezes a run's changes into the requests that an MLflow server will get:
// small enough for every release of it, and the same bytes however often they are sent. It
// is pure; the requests lack only the run's id over there, which nobody knows yet.
package outbox

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

// Kind says how an entry is delivered.
type Kind string

// Kinds. Of a model only "it changed" is recorded: its whole state is small, and is compared
// and repaired as one.
const (
	KindRun       Kind = "RUN"
	KindMetrics   Kind = "METRICS"
	KindParams    Kind = "PARAMS"
	KindTags      Kind = "TAGS"
	KindTagGone   Kind = "TAG_GONE"
	KindUpdate    Kind = "UPDATE"
	KindLifecycle Kind = "LIFECYCLE"
	KindInputs    Kind = "INPUTS"
	KindArtifact  Kind = "ARTIFACT"
	KindHidden    Kind = "ARTIFACT_GONE"
	KindModel     Kind = "MODEL"
)

// Entry is one frozen change. Payload is JSON.
type Entry struct {
	Lane    string
	Kind    Kind
	Payload string
}

// Limits of one request. More than 100 keys at once end in a unique violation on releases
// up to 2026, and a NaN takes its whole batch down with it.
const (
	MaxMetrics = 100
	MaxPairs   = 100
	MaxBytes   = 900_000
)

const (
	runPrefix   = "run/"
	modelPrefix = "model/"
)

// RunLane is the lane of a run.
func RunLane(runID string) string { return runPrefix + runID }

// ModelLane is the lane of a model, by its number: a rename must not change it.
func ModelLane(modelID int64) string { return modelPrefix + strconv.FormatInt(modelID, 10) }

// RunOf is the run of a lane; false when it is a model's.
func RunOf(lane string) (string, bool) {
	id, ok := bytes.CutPrefix([]byte(lane), []byte(runPrefix))
	return string(id), ok
}

// ModelOf is the model of a lane; false when it is a run's.
func ModelOf(lane string) (int64, bool) {
	text, ok := bytes.CutPrefix([]byte(lane), []byte(modelPrefix))
	if !ok {
		return 0, false
	}
	id, err := strconv.ParseInt(string(text), 10, 64)
	return id, err == nil
}

// Metric is a point as it travels: milliseconds, and a value that JSON can hold.
type Metric struct {
	Key       string `json:"key"`
	Value     Number `json:"value"`
	Timestamp int64  `json:"timestamp"`
	Step      int64  `json:"step"`
}

// Number is a float64 whose bits survive JSON; NaN and the infinities are strings.
type Number float64

// MarshalJSON implements json.Marshaler.
func (n Number) MarshalJSON() ([]byte, error) {
	switch f := float64(n); {
	case math.IsNaN(f):
		return []byte(`"NaN"`), nil
	case math.IsInf(f, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(f, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return strconv.AppendFloat(nil, f, 'g', -1, 64), nil
	}
}

// UnmarshalJSON implements json.Unmarshaler.
func (n *Number) UnmarshalJSON(b []byte) error {
	f, err := strconv.ParseFloat(string(bytes.Trim(b, `"`)), 64)
	*n = Number(f)
	return err
}

// Pair is a param or a tag.
type Pair struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Batch is the payload of metrics, params and tags: MLflow's log-batch without the run.
type Batch struct {
	Metrics []Metric `json:"metrics,omitempty"`
	Params  []Pair   `json:"params,omitempty"`
	Tags    []Pair   `json:"tags,omitempty"`
}

// Update is the payload of a run's state, end and name; empty fields stay as they are.
type Update struct {
	State   catalog.RunState `json:"state,omitempty"`
	EndTime int64            `json:"end_time,omitempty"`
	Name    string           `json:"name,omitempty"`
}

// Artifact is the payload of a file that became visible under a path.
type Artifact struct {
	Path      string `json:"path"`
	SHA256    string `json:"sha256"`
	Size      int64  `json:"size"`
	ObjectKey string `json:"object_key"`
}

// Metrics freezes points in their own order: at most MaxMetrics each, and every NaN alone.
func Metrics(lane string, points []catalog.MetricPoint) []Entry {
	var (
		out   []Entry
		chunk []Metric
	)
	flush := func() {
		if len(chunk) > 0 {
			out = append(out, entry(lane, KindMetrics, Batch{Metrics: chunk}))
			chunk = nil
		}
	}
	for _, p := range points {
		m := Metric{Key: p.Key, Value: Number(p.Value), Timestamp: p.Time.UnixMilli(), Step: p.Step}
		if math.IsNaN(p.Value) {
			flush()
			chunk = []Metric{m}
			flush()
			continue
		}
		if chunk = append(chunk, m); len(chunk) == MaxMetrics {
			flush()
		}
	}
	flush()
	return out
}

// Params freezes params, in key order.
func Params(lane string, params map[string]string) []Entry {
	return pairs(lane, KindParams, params, func(list []Pair) Batch { return Batch{Params: list} })
}

// Tags freezes tags, in key order.
func Tags(lane string, tags map[string]string) []Entry {
	return pairs(lane, KindTags, tags, func(list []Pair) Batch { return Batch{Tags: list} })
}

func pairs(lane string, kind Kind, m map[string]string, wrap func([]Pair) Batch) []Entry {
	var (
		out   []Entry
		chunk []Pair
		size  int
	)
	for _, k := range catalog.SortedKeys(m) {
		// Twice the length bounds what JSON makes of quotes and line ends.
		n := 2*(len(k)+len(m[k])) + 32
		if len(chunk) == MaxPairs || len(chunk) > 0 && size+n > MaxBytes {
			out = append(out, entry(lane, kind, wrap(chunk)))
			chunk, size = nil, 0
		}
		chunk, size = append(chunk, Pair{k, m[k]}), size+n
	}
	if len(chunk) > 0 {
		out = append(out, entry(lane, kind, wrap(chunk)))
	}
	return out
}

// Run says that a run exists.
func Run(lane string) Entry { return Entry{lane, KindRun, "{}"} }

// Model says that a model changed.
func Model(lane string) Entry { return Entry{lane, KindModel, "{}"} }

// TagGone says that a tag was deleted.
func TagGone(lane, key string) Entry { return entry(lane, KindTagGone, Pair{Key: key}) }

// Updated says that a run's state, end or name changed.
func Updated(lane string, state catalog.RunState, end time.Time, name string) Entry {
	u := Update{State: state, Name: name}
	if !end.IsZero() {
		u.EndTime = end.UnixMilli()
	}
	return entry(lane, KindUpdate, u)
}

// Lifecycle says that a run was deleted or restored.
func Lifecycle(lane string, to catalog.Lifecycle) Entry {
	return entry(lane, KindLifecycle, map[string]catalog.Lifecycle{"lifecycle": to})
}

// Inputs says that a run read datasets; each is the client's own document.
func Inputs(lane string, documents []json.RawMessage) Entry {
	return entry(lane, KindInputs, map[string][]json.RawMessage{"datasets": documents})
}

// Published says that a file became visible.
func Published(lane string, a Artifact) Entry { return entry(lane, KindArtifact, a) }

// Hidden says that a path, and everything under it, was deleted.
func Hidden(lane, path string) Entry { return entry(lane, KindHidden, Artifact{Path: path}) }

func entry(lane string, kind Kind, payload any) Entry {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(payload); err != nil {
		panic(err) // only documents of clients could fail, and those were parsed before
	}
	return Entry{lane, kind, string(bytes.TrimSpace(b.Bytes()))}
}

// ManifestsLast moves the files that announce a complete model behind all others: who sees
// an MLmodel over there finds what it names.
func ManifestsLast[T any](rows []T, path func(T) string) []T {
	isManifest := func(r T) bool {
		p := path(r)
		return p == manifest || len(p) > len(manifest) && p[len(p)-len(manifest)-1:] == "/"+manifest
	}
	out := slices.Clone(rows)
	slices.SortStableFunc(out, func(a, b T) int {
		switch x, y := isManifest(a), isManifest(b); {
		case x == y:
			return 0
		case x:
			return 1
		}
		return -1
	})
	return out
}

const manifest = "MLmodel"
