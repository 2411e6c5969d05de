package inventory

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// maxLine bounds one record; a checkpoint with thousands of files fits.
const maxLine = 4 << 20

// maxProblems keeps the error of a wrong file readable.
const maxProblems = 20

// line is one row of an inventory file: a checkpoint, or the store's usage.
type line struct {
	Usage         *usageLine      `json:"usage,omitempty"`
	CheckpointID  string          `json:"checkpoint_id,omitempty"`
	Experiment    string          `json:"experiment,omitempty"`
	RunID         string          `json:"run_id,omitempty"`
	Step          int64           `json:"step,omitempty"`
	CreateTime    *time.Time      `json:"create_time,omitempty"`
	State         string          `json:"state,omitempty"`
	TombstoneTime *time.Time      `json:"tombstone_time,omitempty"`
	Uncommitted   bool            `json:"uncommitted,omitempty"`
	Sharpe        *figure         `json:"sharpe,omitempty"`
	Trades        int64           `json:"trades,omitempty"`
	Window        string          `json:"window,omitempty"`
	RunActive     bool            `json:"run_active,omitempty"`
	Resumable     bool            `json:"resumable,omitempty"`
	LastUse       *time.Time      `json:"last_use,omitempty"`
	ExperimentUse *time.Time      `json:"experiment_use,omitempty"`
	SharpeLow     *figure         `json:"sharpe_low,omitempty"`
	Archived      bool            `json:"archived,omitempty"`
	Parents       []string        `json:"parents,omitempty"`
	References    []referenceLine `json:"references,omitempty"`
	Files         []fileLine      `json:"files,omitempty"`
}

type usageLine struct {
	UsedBytes     int64 `json:"used_bytes"`
	CapacityBytes int64 `json:"capacity_bytes"`
}

type referenceLine struct {
	Kind   string     `json:"kind"`
	Detail string     `json:"detail,omitempty"`
	Until  *time.Time `json:"until,omitempty"`
}

type fileLine struct {
	SHA256 string `json:"sha256"`
	Bytes  int64  `json:"bytes"`
}

// figure is a float whose special values are texts: JSON has no NaN, and a lost
// one would turn a diverged run into an unmeasured one.
type figure float64

// MarshalJSON writes NaN and the infinities as texts.
func (f figure) MarshalJSON() ([]byte, error) {
	switch v := float64(f); {
	case math.IsNaN(v):
		return []byte(`"NaN"`), nil
	case math.IsInf(v, 1):
		return []byte(`"Infinity"`), nil
	case math.IsInf(v, -1):
		return []byte(`"-Infinity"`), nil
	default:
		return strconv.AppendFloat(nil, v, 'g', -1, 64), nil
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (f *figure) UnmarshalJSON(b []byte) error {
	text := strings.Trim(string(b), `"`)
	v, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("%s is no number, \"NaN\", \"Infinity\" or \"-Infinity\"", b)
	}
	*f = figure(v)
	return nil
}

// ReadJSONL reads an inventory file: one JSON object per line, blank lines
// skipped. Bad lines are all reported, up to a limit, and nothing is returned:
// half an inventory must never be planned from.
func ReadJSONL(r io.Reader) (retention.Inventory, error) {
	var out retention.Inventory
	var problems []error
	scanner := bufio.NewScanner(r)
	scanner.Buffer(make([]byte, 64<<10), maxLine)
	n := 0
	for scanner.Scan() {
		n++
		text := bytes.TrimSpace(scanner.Bytes())
		if len(text) == 0 {
			continue
		}
		if err := readLine(text, &out); err != nil {
			if problems = append(problems, fmt.Errorf("line %d: %w", n, err)); len(problems) == maxProblems {
				break
			}
		}
	}
	if err := scanner.Err(); err != nil {
		problems = append(problems, fmt.Errorf("line %d: %w", n+1, err))
	}
	if len(problems) > 0 {
		return retention.Inventory{}, fmt.Errorf("the inventory cannot be read: %w", errors.Join(problems...))
	}
	return out, nil
}

func readLine(text []byte, out *retention.Inventory) error {
	var l line
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return err
	}
	if d.More() {
		return errors.New("more than one object")
	}
	if l.Usage != nil {
		out.Usage = retention.Usage{UsedBytes: l.Usage.UsedBytes, CapacityBytes: l.Usage.CapacityBytes}
		if l.CheckpointID == "" {
			return nil
		}
	}
	if l.CheckpointID == "" {
		return errors.New("no checkpoint_id")
	}
	c := retention.Checkpoint{
		ID: l.CheckpointID, Experiment: l.Experiment, RunID: l.RunID, Step: l.Step, CreateTime: instant(l.CreateTime),
		State: retention.ParseState(strings.ToLower(l.State)), TombstoneTime: instant(l.TombstoneTime), Trades: l.Trades, Window: l.Window,
		Uncommitted: l.Uncommitted, RunActive: l.RunActive, Resumable: l.Resumable, LastUse: instant(l.LastUse), Archived: l.Archived, Parents: l.Parents,
	}
	if l.State == "" {
		c.State = retention.StateLive
	}
	if l.Sharpe != nil {
		c.Sharpe = retention.Measured(float64(*l.Sharpe))
	}
	if l.SharpeLow != nil {
		c.SharpeLow = retention.Measured(float64(*l.SharpeLow))
	}
	c.ExperimentUse = instant(l.ExperimentUse)
	for _, r := range l.References {
		c.References = append(c.References, retention.Reference{Kind: retention.ParseReferenceKind(strings.ToLower(r.Kind)), Detail: r.Detail, Until: instant(r.Until)})
	}
	for _, f := range l.Files {
		c.Files = append(c.Files, retention.File{Digest: f.SHA256, Bytes: f.Bytes})
	}
	out.Checkpoints = append(out.Checkpoints, c)
	return nil
}

// WriteJSONL writes an inventory so that [ReadJSONL] gives back one with the
// same hash.
func WriteJSONL(w io.Writer, v retention.Inventory) error {
	b := bufio.NewWriter(w)
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(line{Usage: &usageLine{v.Usage.UsedBytes, v.Usage.CapacityBytes}}); err != nil {
		return err
	}
	for _, c := range v.Checkpoints {
		l := line{
			CheckpointID: c.ID, Experiment: c.Experiment, RunID: c.RunID, Step: c.Step, CreateTime: moment(c.CreateTime),
			State: c.State.String(), TombstoneTime: moment(c.TombstoneTime), Trades: c.Trades, Window: c.Window,
			Uncommitted: c.Uncommitted, RunActive: c.RunActive, Resumable: c.Resumable, LastUse: moment(c.LastUse), Archived: c.Archived, Parents: c.Parents,
		}
		if c.Sharpe.Known {
			f := figure(c.Sharpe.Value)
			l.Sharpe = &f
		}
		if c.SharpeLow.Known {
			f := figure(c.SharpeLow.Value)
			l.SharpeLow = &f
		}
		l.ExperimentUse = moment(c.ExperimentUse)
		for _, r := range c.References {
			l.References = append(l.References, referenceLine{Kind: r.Kind.String(), Detail: r.Detail, Until: moment(r.Until)})
		}
		for _, f := range c.Files {
			l.Files = append(l.Files, fileLine{SHA256: f.Digest, Bytes: f.Bytes})
		}
		if err := enc.Encode(l); err != nil {
			return fmt.Errorf("checkpoint %s: %w", c.ID, err)
		}
	}
	return b.Flush()
}

func instant(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}
