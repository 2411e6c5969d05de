package janitorapi

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	janitorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/janitor/v1"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/sweep"
)

// maxDecisions keeps an answer below the 4 MiB of a message. What is let go is
// always listed before what is kept.
const maxDecisions = 6000

func planMessage(p retention.Plan, changes []string) *janitorv1.Plan {
	out := &janitorv1.Plan{
		PlanHash: p.Hash, PolicyVersion: p.Revision, PlanTime: timestamppb.New(p.Now), Changes: changes,
	}
	for _, t := range p.ByReason() {
		out.Totals = append(out.Totals, &janitorv1.RuleTotal{
			Action: action(t.Verdict), Rule: string(t.Code), Count: int64(t.Objects), SizeBytes: t.Bytes,
		})
	}
	shown := p.Decisions
	if len(shown) > maxDecisions {
		shown = slices.Clone(shown)
		slices.SortStableFunc(shown, func(a, b retention.Decision) int { return weight(a.Verdict) - weight(b.Verdict) })
		out.Changes = append(slices.Clone(out.Changes), fmt.Sprintf("%d of %d decisions are listed; explain a checkpoint to see any other", maxDecisions, len(shown)))
		shown = shown[:maxDecisions]
	}
	for _, d := range shown {
		out.Decisions = append(out.Decisions, decisionMessage(d))
	}
	return out
}

func weight(v retention.Verdict) int {
	return slices.Index([]retention.Verdict{retention.Drop, retention.Archive, retention.Revive, retention.Gone, retention.Keep}, v)
}

// action maps verdicts to the contract: a revival is a way of keeping, and what
// is past return has been dropped.
func action(v retention.Verdict) janitorv1.Action {
	switch v {
	case retention.Keep, retention.Revive:
		return janitorv1.Action_ACTION_KEEP
	case retention.Archive:
		return janitorv1.Action_ACTION_ARCHIVE
	case retention.Drop, retention.Gone:
		return janitorv1.Action_ACTION_DROP
	default:
		return janitorv1.Action_ACTION_UNSPECIFIED
	}
}

func decisionMessage(d retention.Decision) *janitorv1.Decision {
	out := &janitorv1.Decision{
		CheckpointId: d.ID, Action: action(d.Verdict), Reason: d.Text(), SizeBytes: d.Bytes, ExclusiveBytes: d.ExclusiveBytes,
		Experiment: d.Experiment, RunId: d.RunID, Step: d.Step,
	}
	for _, r := range d.Reasons {
		out.Rules = append(out.Rules, string(r.Code))
	}
	return out
}

func sweepMessage(w sweep.Sweep, work []sweep.Work) *janitorv1.ExecuteSweepResponse {
	out := &janitorv1.ExecuteSweepResponse{SweepId: w.ID}
	if !w.EndTime.IsZero() {
		out.EndTime = timestamppb.New(w.EndTime)
	}
	for _, o := range work {
		switch {
		case o.Phase == retention.PhaseRefused:
			out.Refusals = append(out.Refusals, fmt.Sprintf("%s (%s): %s", o.ID, o.Task, o.Reason))
		case o.Phase == retention.PhaseDone && o.Task == retention.TaskTombstone:
			out.TombstonedCount++
			out.TombstonedBytes += o.Bytes
		case o.Phase == retention.PhaseDone && o.Task == retention.TaskDelete:
			out.DeletedCount++
			out.DeletedBytes += o.FreedBytes
		case o.Phase == retention.PhaseDone && o.Task == retention.TaskArchive:
			out.ArchivedCount++
			out.ArchivedBytes += o.Bytes
			out.ColdBytes += o.ColdBytes
			out.DroppedBytes += o.DroppedBytes
		}
	}
	return out
}

// stateName is the state as the registry spells it.
func stateName(s retention.State) string {
	if s == retention.StateUploading {
		return "STAGED"
	}
	return strings.ToUpper(s.String())
}

func reportMessage(r report.Report) *janitorv1.GetReportResponse {
	out := &janitorv1.GetReportResponse{
		TotalBytes: r.TotalBytes, CapacityBytes: r.CapacityBytes, GrowthBytesPerDay: r.GrowthPerDay,
		FullTime: orUnset(r.FullTime), ReportTime: timestamppb.New(r.Time), LastSweepTime: orUnset(r.LastSweepTime),
		ColdBytes: r.ColdBytes, ColdContentBytes: r.ColdContent, LastDrillTime: orUnset(r.LastDrillTime),
	}
	for _, c := range r.Classes {
		u := &janitorv1.ClassUsage{Name: c.Name, Count: c.Objects, SizeBytes: c.Bytes}
		if c.GrowthKnown {
			u.GrowthBytesPerDay = &c.GrowthPerDay
		}
		out.Usage = append(out.Usage, u)
	}
	for _, a := range r.Alerts {
		out.Alerts = append(out.Alerts, a.Text)
	}
	return out
}

func orUnset(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
