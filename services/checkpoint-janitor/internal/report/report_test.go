package report

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/usage"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func facts(t *testing.T) Facts {
	t.Helper()
	stock := inventory.Stock{BucketBytes: 700e9, Bucket: retention.Bucket{Catalogued: 2, Listed: 3}}
	stock.Usage = retention.Usage{UsedBytes: 700e9, CapacityBytes: 1000e9}
	stock.Uncatalogued = inventory.Leftover{Objects: 1, Bytes: 5}
	stock.Checkpoints = []retention.Checkpoint{
		{ID: "a", Experiment: `<script>alert("x")</script>`, State: retention.StateLive, CreateTime: now.Add(-time.Hour), Files: []retention.File{{Digest: "d", Bytes: 4096}}},
		{ID: "b", State: retention.StateTombstoned, CreateTime: now.AddDate(0, 0, -100), TombstoneTime: now},
	}
	plan, err := retention.Decide(retention.DefaultPolicy(), stock.Inventory, now)
	if err != nil {
		t.Fatal(err)
	}
	return Facts{Plan: plan, Stock: stock, Watermark: retention.DefaultWatermark(),
		History: usage.History{usage.Total: {{Time: now.AddDate(0, 0, -1), Bytes: 699.9e9}, {Time: now, Bytes: 700e9}}, "tombstoned": {{Time: now, Bytes: 4e6}}}}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Facts)
		want   []string
	}{
		"quiet":       {func(*Facts) {}, nil},
		"80 % full":   {func(f *Facts) { f.Stock.BucketBytes, f.Stock.Usage.UsedBytes = 800e9, 800e9 }, []string{AlertDisk}},
		"79.9 % full": {func(f *Facts) { f.Stock.BucketBytes, f.Stock.Usage.UsedBytes = 799e9, 799e9 }, nil},
		"full soon":   {func(f *Facts) { f.History[usage.Total][0].Bytes = 670e9 }, []string{AlertForecast, AlertGrowth}},
		"growth":      {func(f *Facts) { f.History[usage.Total][0].Bytes = 699.4e9 }, []string{AlertGrowth}},
		"growth of a new store": {func(f *Facts) {
			f.Stock.Usage.CapacityBytes = 0
			f.History[usage.Total][0] = usage.Point{Time: now.Add(-2 * time.Hour)}
		}, nil},
		"missing":    {func(f *Facts) { f.Stock.Bucket.Missing = 1 }, []string{AlertMissing}},
		"mismatched": {func(f *Facts) { f.Stock.Mismatched = []string{"d"} }, []string{AlertMismatched}},
		"corrupt":    {func(f *Facts) { f.Stock.Corrupt = 2 }, []string{AlertCorrupt}},
		"overdue":    {func(f *Facts) { f.SweepDue = now.Add(-time.Second) }, []string{AlertSweep}},
		"due":        {func(f *Facts) { f.SweepDue = now.Add(time.Second) }, nil},
	} {
		f := facts(t)
		c.change(&f)
		r := Make(f, now)
		var got []string
		for _, a := range r.Alerts {
			got = append(got, a.Name)
		}
		if strings.Join(got, " ") != strings.Join(c.want, " ") {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		for alert, open := range r.Open() {
			if want := strings.Contains(" "+strings.Join(c.want, " ")+" ", " "+alert+" "); open != want {
				t.Errorf("%s: alert %s open %v", name, alert, open)
			}
		}
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	f := facts(t)
	f.Stock.BucketBytes, f.Stock.Usage.UsedBytes = 850e9, 850e9
	r := Make(f, now)
	text := r.Text()
	for _, want := range []string{"85 % used", "tombstoned", "uncatalogued objects", "ALERT the store is 85 % full", "+95.4 MiB a day", "+3.8 MiB a day"} {
		if !strings.Contains(text, want) {
			t.Errorf("missing %q in\n%s", want, text)
		}
	}
	html, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"<polyline points=\"0.0,", `style="width:85.0%"`, "the store is 85 % full", "95.4 MiB a day", "3.8 MiB a day"} {
		if !strings.Contains(html, want) {
			t.Errorf("missing %q in the page", want)
		}
	}
	for _, bad := range []string{"ZgotmplZ", "<script", "http://", "https://"} {
		if strings.Contains(html, bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
	raw, err := r.JSON()
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal([]byte(raw), &back); err != nil || back.TotalBytes != r.TotalBytes || len(back.Alerts) != 1 || !back.LastSweepTime.IsZero() {
		t.Errorf("read back %+v, %v", back, err)
	}
}
