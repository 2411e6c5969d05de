package mlflowmirror

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// verify compares a run that came to rest with what the other side shows, and enqueues what
// is missing there. What is too much there is only reported: MLflow takes nothing back.
func (m *Mirror) verify(ctx context.Context, lane postgres.Lane) error {
	runID, isRun := outbox.RunOf(lane.Name)
	if !isRun || lane.RemoteID == "" {
		return m.Store.LaneVerified(ctx, lane, time.Now(), "") // a model is compared whenever it is sent
	}
	local, err := m.Store.MirroredRun(ctx, runID)
	if err != nil {
		return err
	}
	remote, err := m.remoteRun(ctx, lane.RemoteID)
	if _, gone := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); gone {
		return errGone
	}
	if err != nil {
		return err
	}
	experiment, err := m.ensureExperiment(ctx, local.Run.ExperimentID, local.Run.ExperimentName)
	if err != nil {
		return err
	}
	found, err := m.findRuns(ctx, experiment, runID)
	if err != nil {
		return err
	}
	var doubles []runInfo
	for _, r := range found {
		if r.ID != lane.RemoteID {
			doubles = append(doubles, r)
		}
	}
	if err := m.deleteDoubles(ctx, doubles); err != nil {
		return err
	}
	d := differences{lane: lane.Name}
	d.pairs(local.Run, remote)
	if err := m.comparePoints(ctx, lane, local.Points, &d); err != nil {
		return err
	}
	if err := m.compareFiles(ctx, lane, local.Files, &d); err != nil {
		return err
	}
	return m.settle(ctx, lane, d)
}

// settle records what a comparison found and enqueues its repair.
func (m *Mirror) settle(ctx context.Context, lane postgres.Lane, d differences) error {
	for _, kind := range d.kinds {
		m.meters.divergence.WithLabelValues(kind).Inc()
	}
	text := strings.Join(d.found, "; ")
	if text != "" {
		m.Log.Warn("the mirror differs", zap.String("lane", lane.Name), zap.String("differences", text))
	}
	// The repair waits before the comparison counts as made: nobody sees a lane that differs,
	// was compared, and has nothing to send.
	now := time.Now()
	if len(d.repair) > 0 {
		repaired, err := m.Store.RepairLane(ctx, lane, now, d.repair)
		if err != nil {
			return err
		}
		if !repaired {
			m.Log.Error("three repairs did not make the mirror equal; see `trainyard mirror`", zap.String("lane", lane.Name))
		}
	}
	return m.Store.LaneVerified(ctx, lane, now, shorten(text))
}

// differences collects what a comparison finds.
type differences struct {
	lane   string
	found  []string
	kinds  []string
	repair []outbox.Entry
}

func (d *differences) add(kind, format string, args ...any) {
	d.kinds = append(d.kinds, kind)
	d.found = append(d.found, fmt.Sprintf(format, args...))
}

// pairs compares params, tags, state and lifecycle.
func (d *differences) pairs(local catalog.Run, remote remoteRun) {
	compare := func(kind string, here map[string]string, list []outbox.Pair) map[string]string {
		there := make(map[string]string, len(list))
		for _, p := range list {
			there[p.Key] = p.Value
		}
		missing := map[string]string{}
		for k, v := range here {
			if got, ok := there[k]; !ok || got != v {
				missing[k] = v
			}
		}
		if len(missing) > 0 {
			d.add(kind, "%d %ss differ", len(missing), kind)
		}
		return missing
	}
	d.repair = append(d.repair, outbox.Params(d.lane, compare("param", local.Params, remote.Data.Params))...)
	d.repair = append(d.repair, outbox.Tags(d.lane, compare("tag", local.Tags, remote.Data.Tags))...)
	if want := remoteStatus[local.State]; remote.Info.Status != want {
		d.add("status", "status is %s, not %s", remote.Info.Status, want)
		d.repair = append(d.repair, outbox.Updated(d.lane, local.State, local.EndTime, ""))
	}
	if want := strings.ToLower(string(local.Lifecycle)); remote.Info.Stage != want {
		d.add("lifecycle", "it is %s, not %s", remote.Info.Stage, want)
		d.repair = append(d.repair, outbox.Lifecycle(d.lane, local.Lifecycle))
	}
}

func (m *Mirror) comparePoints(ctx context.Context, lane postgres.Lane, points []catalog.MetricPoint, d *differences) error {
	for len(points) > 0 { // they come sorted by key
		key := points[0].Key
		n := 1
		for n < len(points) && points[n].Key == key {
			n++
		}
		there, err := m.remotePoints(ctx, lane.RemoteID, key)
		if err != nil {
			return err
		}
		var missing []catalog.MetricPoint
		here := map[point]bool{}
		for _, p := range points[:n] {
			at := pointOf(outbox.Metric{Value: outbox.Number(p.Value), Timestamp: p.Time.UnixMilli(), Step: p.Step})
			if !there[at] {
				missing = append(missing, p)
			}
			here[at] = true
		}
		if len(missing) > 0 {
			d.add("metric", "%d points of %s are missing", len(missing), key)
			d.repair = append(d.repair, outbox.Metrics(d.lane, missing)...)
		}
		if extra := len(there) - (len(here) - len(missing)); extra > 0 {
			d.add("metric", "%d points of %s are only there", extra, key)
		}
		points = points[n:]
	}
	return nil
}

func (m *Mirror) compareFiles(ctx context.Context, lane postgres.Lane, files []postgres.Artifact, d *differences) error {
	root, ok := proxied(lane.RemoteRoot)
	if !ok || len(files) == 0 {
		return nil // their dead letters tell of a root that cannot be reached
	}
	there, err := m.client.files(ctx, root, "")
	if err != nil {
		return err
	}
	missing := 0
	for _, f := range files {
		if size, ok := there[f.Path]; !ok || size != f.Size {
			missing++
			d.repair = append(d.repair, outbox.Published(d.lane, outbox.Artifact{Path: f.Path, SHA256: f.SHA256, Size: f.Size, ObjectKey: f.ObjectKey}))
		}
	}
	if missing > 0 {
		d.add("artifact", "%d files are missing", missing)
	}
	return nil
}
