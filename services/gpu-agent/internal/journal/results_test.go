//go:build results

package journal_test

import (
	"math/rand"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk/crashdisk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/journal"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// Power cut at ten thousand points and more.
func TestCampaignPowerLoss(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 5
	}
	points, bad := powerLoss(t, seeds, nil)
	_, noSync := powerLoss(t, 40, func(name, _ string) bool { return name == "sync" })
	_, noDirSync := powerLoss(t, 40, func(name, _ string) bool { return name == "syncdir" })
	if bad > 0 || noSync == 0 || noDirSync == 0 {
		t.Errorf("%d bad; mutants %d, %d", bad, noSync, noDirSync)
	}
	benchtable.Section{
		Page: "agent.md", Title: "Power loss: the journal", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignPowerLoss",
		Intro: "The same disk under leases and exits.",
		Rows: []benchtable.Row{
			{What: "crash points", Asked: ">= 10,000", Ours: benchtable.Of("", float64(points))},
			{What: "states that lost an update that had returned, or were corrupt", Asked: "0", Ours: benchtable.Of("", float64(bad))},
			{What: "the same without syncs of bytes", Asked: "caught", Ours: benchtable.Of("", float64(noSync))},
			{What: "the same without syncs of names", Asked: "caught", Ours: benchtable.Of("", float64(noDirSync))},
		},
	}.Write(t)
}

// Every byte of the journal flipped, in every bit.
func TestCampaignFlippedBytes(t *testing.T) {
	d := crashdisk.New()
	j, err := journal.Open(d, "/journal")
	if err != nil {
		t.Fatal(err)
	}
	for fence := range uint64(3) {
		grant(t, j, key("job", fence+1))
	}
	if err := j.Update(func(s *journal.State) { s.End(lease.Exit{Key: key("job", 1), Outcome: lease.Succeeded}) }); err != nil {
		t.Fatal(err)
	}
	raw, err := d.ReadFile("/journal/state")
	if err != nil {
		t.Fatal(err)
	}
	tried, found := 0, 0
	for offset := range raw {
		for bit := range 8 {
			hurt := d.Crash(rand.New(rand.NewSource(1)), 0)
			hurt.Corrupt("/journal/state", offset, 1<<bit)
			again, err := journal.Open(hurt, "/journal")
			if err != nil {
				t.Fatal(err)
			}
			tried++
			if state := again.View(); state.Quarantine != "" && len(state.Leases) == 0 {
				found++
			}
		}
	}
	if found != tried {
		t.Errorf("%d of %d", found, tried)
	}
	benchtable.Section{
		Page: "agent.md", Title: "A corrupt journal", Command: "make campaign ONLY=services/gpu-agent CAMPAIGN=TestCampaignFlippedBytes",
		Intro: "Each bit of each byte of a journal with leases and exits flipped, one at a time.",
		Rows: []benchtable.Row{
			{What: "flips", Ours: benchtable.Of("", float64(tried))},
			{What: "found, host quarantined", Asked: "100 %", Ours: benchtable.Of("%", float64(found)/float64(tried)*100)},
		},
	}.Write(t)
}
