// Package report says how full the store is, what fills it, how fast it grows
// and when it will be full, as text, JSON or one self-contained page.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/drill"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

// GrowthGoal is the growth per day above which the report raises an alert.
const GrowthGoal = 500e6

// orphanLimit is the size from which orphans are worth an alert.
const orphanLimit = 1 << 30

// Names of the alerts; metrics carry them too.
const (
	AlertDisk       = "disk_full"
	AlertForecast   = "disk_full_soon"
	AlertGrowth     = "growth"
	AlertMissing    = "missing_objects"
	AlertMismatched = "mismatched_objects"
	AlertCorrupt    = "corrupt_checkpoints"
	AlertSweep      = "sweep_overdue"
	AlertDrill      = "restore_drill"
	AlertOrphans    = "orphans"
)

// Names lists every alert.
func Names() []string {
	return []string{AlertDisk, AlertForecast, AlertGrowth, AlertMissing, AlertMismatched, AlertCorrupt, AlertSweep, AlertDrill, AlertOrphans}
}

// Alert is one thing that somebody should look at.
type Alert struct {
	Name string `json:"name"`
	Text string `json:"text"`
}

// Rule is one row of what the newest plan does and why.
type Rule struct {
	Action     string `json:"action"`
	Rule       string `json:"rule"`
	Objects    int    `json:"objects"`
	Bytes      int64  `json:"bytes"`
	FreedBytes int64  `json:"freed_bytes"`
}

// Report is the state of the store at one instant.
type Report struct {
	Time          time.Time     `json:"time"`
	TotalBytes    int64         `json:"total_bytes"`
	TotalObjects  int           `json:"total_objects"`
	UsedBytes     int64         `json:"used_bytes"`
	CapacityBytes int64         `json:"capacity_bytes"`
	GrowthPerDay  float64       `json:"growth_bytes_per_day"`
	GrowthKnown   bool          `json:"growth_known"`
	FullTime      time.Time     `json:"full_time,omitzero"`
	LastSweepTime time.Time     `json:"last_sweep_time,omitzero"`
	LastDrillTime time.Time     `json:"last_drill_time,omitzero"`
	ColdBytes     int64         `json:"cold_bytes"`
	ColdContent   int64         `json:"cold_content_bytes"`
	Orphans       usage.Class   `json:"orphans"`
	Tightened     bool          `json:"tightened"`
	Classes       []usage.Class `json:"usage"`
	Rules         []Rule        `json:"plan"`
	Uncatalogued  usage.Class   `json:"uncatalogued"`
	Foreign       usage.Class   `json:"foreign"`
	Alerts        []Alert       `json:"alerts"`
	History       []usage.Point `json:"history"`
}

// Facts are what a report is made from.
type Facts struct {
	Plan      retention.Plan
	Stock     inventory.Stock
	Watermark retention.Watermark
	// History has the samples of the last days.
	History usage.History
	// LastSweep is the end of the newest finished sweep; zero when there is none.
	LastSweep time.Time
	// SweepDue is when the next sweep should have ended; zero when none is
	// scheduled.
	SweepDue time.Time
	// Drill is the newest restore drill; nil when there was none.
	Drill *drill.Record
}

// Make builds the report.
func Make(f Facts, now time.Time) Report {
	r := Report{
		Time: now, TotalBytes: f.Stock.BucketBytes, TotalObjects: f.Stock.Bucket.Listed, CapacityBytes: f.Stock.Usage.CapacityBytes, UsedBytes: f.Stock.Usage.UsedBytes,
		LastSweepTime: f.LastSweep, Tightened: f.Plan.Tightened, Classes: usage.Classes(f.Plan), History: f.History[usage.Total],
		Uncatalogued: usage.Class{Name: "uncatalogued", Objects: int64(f.Stock.Uncatalogued.Objects), Bytes: f.Stock.Uncatalogued.Bytes},
		Foreign:      usage.Class{Name: "foreign", Objects: int64(f.Stock.Foreign.Objects), Bytes: f.Stock.Foreign.Bytes},
		ColdBytes:    f.Stock.ColdBytes, ColdContent: f.Stock.ColdContent,
		Orphans: usage.Class{Name: "orphans", Objects: int64(len(f.Stock.Orphans)), Bytes: f.Stock.Bucket.OrphanBytes},
		Alerts:  []Alert{},
	}
	if f.Drill != nil {
		r.LastDrillTime = f.Drill.EndTime
	}
	for _, t := range f.Plan.ByReason() {
		r.Rules = append(r.Rules, Rule{t.Verdict.String(), string(t.Code), t.Objects, t.Bytes, t.FreedBytes})
	}
	r.GrowthPerDay, r.GrowthKnown = usage.Growth(r.History)
	for i, c := range r.Classes {
		r.Classes[i].GrowthPerDay, r.Classes[i].GrowthKnown = usage.Growth(f.History.Of(c.Name))
	}
	if full, ok := usage.Forecast(now, r.UsedBytes, r.CapacityBytes, f.Watermark.AlertAt, r.GrowthPerDay); ok {
		r.FullTime = full
	}
	r.alert(f, now)
	return r
}

func (r *Report) alert(f Facts, now time.Time) {
	add := func(name, format string, args ...any) {
		r.Alerts = append(r.Alerts, Alert{name, fmt.Sprintf(format, args...)})
	}
	limit := 100 * f.Watermark.AlertAt
	switch {
	case r.CapacityBytes > 0 && f.Stock.Usage.Fraction() >= f.Watermark.AlertAt:
		add(AlertDisk, "the store is %.0f %% full (%s of %s), the limit is %.0f %%", 100*f.Stock.Usage.Fraction(),
			retention.Bytes(r.UsedBytes), retention.Bytes(r.CapacityBytes), limit)
	case !r.FullTime.IsZero() && r.FullTime.Sub(now) < 4*24*time.Hour:
		add(AlertForecast, "at this growth the store is %.0f %% full on %s", limit, r.FullTime.Format(time.DateOnly))
	}
	// A day of history at least: a new store grows from nothing at any rate.
	if n := len(r.History); r.GrowthKnown && r.GrowthPerDay > GrowthGoal && r.History[n-1].Time.Sub(r.History[0].Time) >= 24*time.Hour {
		add(AlertGrowth, "the store grows by %s a day, the goal is %s", retention.Bytes(int64(r.GrowthPerDay)), retention.Bytes(GrowthGoal))
	}
	if n := f.Stock.Bucket.Missing; n > 0 {
		add(AlertMissing, "%d of %d catalogued contents are missing from the bucket or have the wrong size", n, f.Stock.Bucket.Catalogued)
	}
	if m := f.Stock.Mismatched; len(m) > 0 {
		add(AlertMismatched, "%d objects have not the size that the catalogue says, the first is %s", len(m), m[0])
	}
	if n := f.Stock.Corrupt; n > 0 {
		add(AlertCorrupt, "%d checkpoints have bytes that do not match their digest", n)
	}
	if o := r.Orphans; o.Bytes > orphanLimit && o.Bytes*10 > r.TotalBytes {
		add(AlertOrphans, "%s in %d objects belong to nothing in the catalogue; look at them before their grace is over", retention.Bytes(o.Bytes), o.Objects)
	}
	switch {
	case f.Drill == nil:
	case len(f.Drill.Failures) > 0:
		add(AlertDrill, "the restore drill of %s has failed: %s", f.Drill.EndTime.Format(time.DateOnly), f.Drill.Failures[0])
	case now.Sub(f.Drill.EndTime) > drill.Every+24*time.Hour:
		add(AlertDrill, "no restore drill since %s", f.Drill.EndTime.Format(time.DateOnly))
	}
	if !f.SweepDue.IsZero() && now.After(f.SweepDue) {
		add(AlertSweep, "no sweep has ended since %s", last(f.LastSweep))
	}
}

// Open says of every alert whether it is open.
func (r Report) Open() map[string]bool {
	out := map[string]bool{}
	for _, name := range Names() {
		out[name] = false
	}
	for _, a := range r.Alerts {
		out[a.Name] = true
	}
	return out
}

func last(t time.Time) string {
	if t.IsZero() {
		return "the beginning"
	}
	return t.UTC().Format(time.RFC3339)
}

// Drilled says when the last restore drill was.
func (r Report) Drilled() string {
	if r.LastDrillTime.IsZero() {
		return "never"
	}
	return r.LastDrillTime.UTC().Format(time.RFC3339)
}

// ColdSaved is the part of the archived contents that packing saves, in percent.
func (r Report) ColdSaved() float64 {
	if r.ColdContent == 0 {
		return 0
	}
	return 100 * (1 - float64(r.ColdBytes)/float64(r.ColdContent))
}

// Growth in words, with its sign.
func (r Report) Growth() string { return growth(r.GrowthPerDay, r.GrowthKnown) }

func growth(perDay float64, known bool) string {
	if !known {
		return "not known yet"
	}
	sign := "+"
	if perDay < 0 {
		sign = "-"
	}
	return sign + retention.Bytes(int64(math.Abs(perDay))) + " a day"
}

// Full in words.
func (r Report) Full() string {
	switch {
	case r.CapacityBytes <= 0:
		return "capacity not known"
	case r.FullTime.IsZero():
		return "not in sight"
	default:
		return r.FullTime.UTC().Format(time.DateOnly)
	}
}

// JSON form.
func (r Report) JSON() (string, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return string(b), err
}

// Text form.
func (r Report) Text() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format+"\n", args...) } // a Builder never fails
	line("Checkpoint store, %s", r.Time.UTC().Format(time.RFC3339))
	line("\nin the bucket\t%s in %d objects", retention.Bytes(r.TotalBytes), r.TotalObjects)
	if r.CapacityBytes > 0 {
		line("capacity\t%s, %.0f %% used", retention.Bytes(r.CapacityBytes), 100*float64(r.UsedBytes)/float64(r.CapacityBytes))
	}
	line("growth\t%s", r.Growth())
	line("full\t%s", r.Full())
	line("last sweep\t%s", last(r.LastSweepTime))
	line("last restore drill\t%s", r.Drilled())
	if r.ColdBytes > 0 {
		line("cold tier\t%s for %s of contents, %.0f %% saved", retention.Bytes(r.ColdBytes), retention.Bytes(r.ColdContent), r.ColdSaved())
	}
	line("\nCLASS\tCHECKPOINTS\tBYTES\tGROWTH")
	for _, c := range r.Classes {
		line("%s\t%d\t%s\t%s", c.Name, c.Objects, retention.Bytes(c.Bytes), growth(c.GrowthPerDay, c.GrowthKnown))
	}
	for _, c := range []usage.Class{r.Uncatalogued, r.Orphans, r.Foreign} {
		if c.Objects > 0 {
			line("%s objects\t%d\t%s", c.Name, c.Objects, retention.Bytes(c.Bytes))
		}
	}
	line("\nACTION\tRULE\tCHECKPOINTS\tBYTES\tFREED")
	for _, p := range r.Rules {
		line("%s\t%s\t%d\t%s\t%s", p.Action, p.Rule, p.Objects, retention.Bytes(p.Bytes), retention.Bytes(p.FreedBytes))
	}
	_ = t.Flush() // a Builder never fails
	if len(r.Alerts) == 0 {
		b.WriteString("\nno alerts\n")
	}
	for _, a := range r.Alerts {
		b.WriteString("\nALERT " + a.Text + "\n")
	}
	return b.String()
}
