//go:build results

package staging_test

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// Power cut at ten thousand points and more.
func TestCampaignPowerLoss(t *testing.T) {
	seeds := 80
	if testing.Short() {
		seeds = 5
	}
	points, lost, corrupt := sweep(t, seeds, nil)
	_, _, noSync := sweep(t, 20, func(name, _ string) bool { return name == "sync" })
	_, noDirSync, _ := sweep(t, 20, func(name, _ string) bool { return name == "syncdir" })
	if lost+corrupt > 0 || noSync == 0 || noDirSync == 0 {
		t.Errorf("%d lost, %d corrupt; mutants %d, %d", lost, corrupt, noSync, noDirSync)
	}
	benchtable.Section{
		Page: "agent.md", Title: "Power loss: staging", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignPowerLoss",
		Intro: "The same disk under uploads of checkpoints, one of them aborted.",
		Rows: []benchtable.Row{
			{What: "crash points", Asked: ">= 10,000", Ours: benchtable.Of("", float64(points))},
			{What: "states that lost an acknowledged content", Asked: "0", Ours: benchtable.Of("", float64(lost))},
			{What: "states that show bytes under another's digest", Asked: "0", Ours: benchtable.Of("", float64(corrupt))},
			{What: "corrupt contents shown without syncs of bytes", Asked: "caught", Ours: benchtable.Of("", float64(noSync))},
			{What: "contents lost without syncs of names", Asked: "caught", Ours: benchtable.Of("", float64(noDirSync))},
		},
	}.Write(t)
}
