//go:build results

package localtree

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

func TestCampaignPowerLoss(t *testing.T) {
	points, err := powerLoss(t, 1, 90, false)
	corrupt := 0.0
	if err != nil {
		corrupt = 1
	}
	blind, mutant := powerLoss(t, 1, 3, true)
	benchtable.Section{
		Page: "janitor.md", Title: "Power loss in a directory of files", Command: "make campaign ONLY=services/checkpoint-janitor CAMPAIGN=TestCampaignPowerLoss",
		Intro: "A whole life (mark, pack, remove, restore, delete) on a disk in memory whose power goes off at every operation; what was not synced survives never, " +
			"by half, or mostly, each file and each name on its own. After each point every visible checkpoint is compared, then the next runs must end where an uncut one does, with nothing left behind.",
		Rows: []benchtable.Row{
			{What: "points", Asked: ">= 10,000", Ours: benchtable.Of("", float64(points))},
			{What: "visible corrupt or lost", Asked: "0", Ours: benchtable.Of("", corrupt)},
			{What: "the same on a disk that does not sync: points until the first loss", Ours: benchtable.Of("", float64(blind)), Note: "the harness is not blind"},
		},
	}.Write(t)
	if err != nil || points < 10_000 || mutant == nil {
		t.Fatalf("%d points: %v; the mutant: %v", points, err, mutant)
	}
}
