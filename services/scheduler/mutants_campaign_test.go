//go:build results

package scheduler_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// mutant is one way to break the scheduler, and the package whose tests must see it.
type mutant struct {
	what, file, from, to string
	pkg, run             string
}

var mutants = []mutant{
	{"no answer to a request is kept", "cycle/verbs.go", "\t\tt.putReceipt(Receipt{ID: r.ID, Method", "\t\t_ = (Receipt{ID: r.ID, Method", "cycle", "UnknownOutcomes"},
	{"answers are given before the commit", "cycle/engine.go", "\tc := t.changes()\n", "\tc := t.changes()\n\tfor i, op := range batch {\n\t\tselect {\n\t\tcase op.done <- results[i]:\n\t\tdefault:\n\t\t}\n\t}\n", "cycle", "UnknownOutcomes"},
	{"exits are taken under any fence", "cycle/report.go", "if !ok || a.Fence != x.Fence || a.Rank(agent) < 0 {", "if !ok || a.Rank(agent) < 0 {", "cycle", "."},
	{"a stale fence ends a job", "job/next.go", "if a.Job != j.ID || a.Fence != j.Fence || !a.Live() || !j.State.Live() {", "if a.Job != j.ID || !j.State.Live() {", "job", "."},
	{"the memory survives an unknown outcome", "cycle/engine.go", "\t\t\treturn e.load(ctx)\n", "\t\t\treturn nil\n", "cycle", "UnknownOutcomes"},
	{"a zombie is not told to stop", "cycle/report.go", "\tfor _, h := range v.Fenced {", "\tfor _, h := range v.Fenced[:0] {", "cycle", "."},
	{"no lock delay", "lease/lease.go", "return heard.Add(t.Duration + t.LockDelay)", "return heard.Add(t.Duration)", "lease", "."},
	{"a gang's first failure frees all its devices", "job/gang.go", "if a.running() == 0 {", "if a.running() == 0 || a.Verdict != nil {", "job", "Gang"},
	{"a gang's second host is not checked", "memstore/memstore.go", "range begun[i].Agents() {", "range begun[i].Agents()[:1] {", "memstore", "."},
	{"dependents are not told of an end", "cycle/tx.go", "\t\tt.ended(j)\n", "\t\t_ = t.ended\n", "cycle", "Chain"},
	{"a schedule forgets that it fired", "cycle/schedule.go", "\tt.putSchedule(s)\n", "\t_ = s\n", "cycle", "Schedule"},
	{"a backoff costs the place in line", "job/move.go", "\tj.Waiting, j.Updated = now, now\n\treturn j\n", "\tj.Waiting, j.Updated, j.Place = now, now, j.Place+1000\n\treturn j\n", "job", "."},
	{"a preemption spends a retry", "job/next.go", "return j.requeue(\"preempted by a job of a higher class; keeps its place\", time.Time{}, now)", "return j.retry(e, p, rng, now)", "job", "."},
	{"a watch skips what the ring has lost", "cycle/watch.go", "if revision < h.floor {", "if false {", "cycle", "UnknownOutcomes"},
	{"a quota does not count what is not durable yet", "cycle/group.go", "have += x.added[tenant]", "have += 0 * x.added[tenant]", "cycle", "Quota"},
}

// A harness that cannot see a broken scheduler proves nothing of a whole one.
func TestCampaignMutants(t *testing.T) {
	breakAll(t, mutants, "scheduler-service.md", "TestCampaignMutants$$")
}

// coreMutants break the promises of the planner's core, one by one.
var coreMutants = []mutant{
	{"a device is promised beyond its memory", "placement/snapshot.go", "max(d.Memory-d.Headroom-d.Held-d.Overhead-d.ahead, 0)", "max(d.Memory-d.Headroom-d.Overhead-d.ahead, 0)", "placement", "."},
	{"a whole device is given to a second holder", "placement/snapshot.go", "return d.Holders == 0 && d.Fault", "return d.Fault", "placement", "."},
	{"a placed job keeps its place in line too", "placement/round.go", "\tif e.line != nil {\n\t\te.line.remove(e)\n\t\te.line = nil\n\t}\n\tc.dropRoom", "\te.line = nil\n\tc.dropRoom", "placement", "."},
	{"a job that backs off stays in the way", "placement/core.go", "\tif r.NotBefore.After(c.now) {\n\t\tc.clock", "\tif false {\n\t\tc.clock", "placement", "."},
	{"who backed off goes to the end of its line", "placement/core.go", "\te.order = r.Place\n", "\te.order = r.Place\n\tif !r.NotBefore.IsZero() {\n\t\te.order += 1000\n\t}\n", "placement", "."},
	{"backfill ignores limits", "placement/room.go", "o.on(p.node) && gone.After(o.at)", "o.on(p.node) && gone.After(o.at.Add(time.Hour))", "placement", "."},
	{"kept room binds nobody", "placement/room.go", "d.ahead = max(d.ahead, then.Held-d.Held)", "d.ahead = 0", "placement", "."},
	{"the head's room is lost to the neediest tenant", "placement/room.go", "return e.line.tenant == o.line.tenant && e.ahead(o)", "return true", "placement", "."},
	{"kept room is given up the moment it is there", "placement/room.go", "!r.at.After(c.now) && !c.cleared(r)", "!r.at.After(c.now)", "placement", "."},
	{"equal classes stop each other", "placement/makeroom.go", "return h.Priority < at.class ||", "return h.Priority <= at.class ||", "placement", "."},
	{"who has only begun is stopped", "placement/makeroom.go", "c.now.Sub(h.Started) >= c.rules.MinRuntime", "true", "placement", "."},
	{"the dearest victim is taken", "placement/makeroom.go", "return a.lost < b.lost", "return a.lost > b.lost", "placement", "."},
	{"victims that are not in the way stop too", "placement/makeroom.go", "why == fits {\n\t\t\tcontinue\n", "why == fits && false {\n\t\t\tcontinue\n", "placement", "."},
	{"changes are looked at as they came", "placement/makeroom.go", "\tslices.Sort(nodes)\n\tfor _, n := range nodes {", "\tfor _, n := range nodes {", "placement", "."},
	{"a ranking misses a change", "placement/fleet.go", "\tf.log = append(f.log, int32(i))\n\tif len", "\tif len", "placement", "."},
}

func TestCampaignCoreMutants(t *testing.T) {
	breakAll(t, coreMutants, "scheduler-core.md", "TestCampaignCoreMutants")
}

// breakAll runs the tests against one broken scheduler after another.
func breakAll(t *testing.T, mutants []mutant, page, name string) {
	t.Helper()
	root, err := filepath.Abs("internal")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	var slowest time.Duration
	for _, m := range mutants {
		path := filepath.Join(root, m.file)
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(source), m.from) == 0 {
			t.Errorf("%s: %s no longer has %q", m.what, m.file, m.from)
			continue
		}
		dir := t.TempDir()
		broken, overlay := filepath.Join(dir, "broken.go"), filepath.Join(dir, "overlay.json")
		if err := os.WriteFile(broken, []byte(strings.Replace(string(source), m.from, m.to, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(map[string]map[string]string{"Replace": {path: broken}})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(overlay, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		begin := time.Now()
		out, err := exec.CommandContext(ctx, "go", "test", "-vet=off", "-count=1", "-timeout=60s", "-overlay="+overlay, "-run="+m.run, "./internal/"+m.pkg).CombinedOutput()
		cancel()
		slowest = max(slowest, time.Since(begin))
		switch {
		case err == nil:
			t.Errorf("%s: no test of %s saw it", m.what, m.pkg)
		case strings.Contains(string(out), "[build failed]"):
			t.Errorf("%s does not build: %s", m.what, out)
		default:
			killed++
			t.Logf("%s: seen in %s", m.what, time.Since(begin).Round(time.Millisecond))
		}
	}
	benchtable.Section{
		Page: page, Title: "Mutants", Command: "make campaign ONLY=services/scheduler CAMPAIGN=" + name,
		Intro: "The scheduler is broken on purpose, one way at a time, and the tests that guard that promise are run.",
		Rows: []benchtable.Row{
			{What: "mutants that a test sees", Asked: "all", Ours: benchtable.Of("", float64(killed)), Note: "of " + benchtable.Of("", float64(len(mutants))).String()},
			{What: "slowest, build included", Asked: "< 60 s", Ours: benchtable.Of("s", slowest.Seconds())},
		},
	}.Write(t)
}
