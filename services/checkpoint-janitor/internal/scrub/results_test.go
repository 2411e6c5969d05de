//go:build results

package scrub_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

// 10,000 objects of a real S3 server, each with one bit flipped behind the catalogue's back, among 2,000
// that are as they were.
func TestCampaignScrub(t *testing.T) {
	const flips, sound = 10_000, 2_000
	y := setup(t)
	r := rand.New(rand.NewPCG(3, 4))
	flipped := map[string]bool{}
	for i := range flips + sound {
		content := make([]byte, 64+r.IntN(4000))
		for k := range content {
			content[k] = byte(r.Uint32())
		}
		key := y.put(t, content)
		if i < flips {
			bit := r.IntN(8 * len(content))
			content[bit/8] ^= 1 << (bit % 8)
			if _, err := y.bucket.PutBytes(t.Context(), key, content); err != nil {
				t.Fatal(err)
			}
			flipped[key] = true
		}
	}
	got, err := y.scrubber().Round(t.Context(), now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	found, blamed := 0, 0
	for _, f := range got.Bad {
		if flipped[f.Key] {
			found++
		} else {
			blamed++
		}
	}
	benchtable.Section{
		Page: "janitor.md", Title: "Scrub", Command: "make campaign ONLY=services/checkpoint-janitor CAMPAIGN=TestCampaignScrub",
		Intro: "One bit flipped in each of 10,000 objects on a real S3 server, at a random place, among 2,000 that are as they were.",
		Rows: []benchtable.Row{
			{What: "flips found and reported to the registry", Asked: "10,000 of 10,000", Ours: benchtable.Of("", float64(found))},
			{What: "sound objects blamed", Asked: "0", Ours: benchtable.Of("", float64(blamed))},
		},
	}.Write(t)
	if found != flips || blamed != 0 || len(y.told) != flips {
		t.Fatalf("%d found, %d blamed, %d told", found, blamed, len(y.told))
	}
}
