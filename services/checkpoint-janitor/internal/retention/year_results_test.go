//go:build results

package retention

import (
	"fmt"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

func TestResultsYear(t *testing.T) {
	rows := []benchtable.Row{}
	for _, c := range []struct {
		name string
		o    yearOptions
		goal string
	}{
		{"the old way: nothing is ever deleted", yearOptions{keepAll: true}, ""},
		{"retention alone (top 5, abandoned after 90 d)", yearOptions{}, "< 500 MB"},
		{"+ archive, optimizer state dropped", yearOptions{archive: true, drop: true, encoded: 1}, ""},
		{"+ packed without loss", yearOptions{archive: true, drop: true, encoded: packedAlone}, ""},
		{"+ differences and shared trunks", yearOptions{archive: true, drop: true, encoded: packedDelta}, "< 500 MB, stretch < 100"},
	} {
		y := simulateYear(t, c.o)
		rows = append(rows,
			benchtable.Row{What: c.name + ": growth/day, slope", Asked: c.goal, Ours: benchtable.Of("MB", y.slope/1e6), Note: fmt.Sprintf("p50 %.0f, p95 %.0f MB", y.p50/1e6, y.p95/1e6)},
			benchtable.Row{What: c.name + ": stored after a year", Ours: benchtable.Of("GB", y.end/1e9), Note: fmt.Sprintf("%d of %d checkpoints", y.left, y.written)})
	}
	benchtable.Section{
		Page: "janitor.md", Title: "A simulated year", Command: "make bench ONLY=services/checkpoint-janitor RESULTS=TestResultsYear",
		Intro: "5 GB written a day: three specialists retrained daily, a search of its own experiment every third day, one diverged run in twenty, a version registered per specialist and week. " +
			"Daily sweeps by the real decision, caps and two-phase delete in virtual time; the ratios of packing are those that the section on the real S3 sample measures. Growth is that of days 100 to 365, once the waiting times are full.",
		Rows:  rows,
		Notes: []string{"The lever is what is kept: retention alone takes 99 % away. What grows on are registered versions, which are never archived or deleted."},
	}.Write(t)
}
