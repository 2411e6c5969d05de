package cron

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func zone(t testing.TB, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Skipf("no time zone data: %v", err)
	}
	return z
}

func TestFireTimes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		line, zone, after string
		want              []string
	}{
		{"30 2 * * *", "UTC", "2026-01-01T02:30:00Z", []string{"2026-01-02T02:30:00Z", "2026-01-03T02:30:00Z"}},
		{"*/20 9-10 * * MON-FRI", "UTC", "2026-11-27T10:25:00Z", []string{"2026-11-27T10:40:00Z", "2026-11-30T09:00:00Z", "2026-11-30T09:20:00Z"}},
		{"0 0 29 2 *", "UTC", "2026-01-01T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"0 12 13 * FRI", "UTC", "2026-11-12T13:00:00Z", []string{"2026-11-13T12:00:00Z", "2026-11-20T12:00:00Z"}},
		{"0 0 * * 7", "UTC", "2026-11-24T00:00:00Z", []string{"2026-11-29T00:00:00Z"}},
		{"@monthly", "UTC", "2026-11-24T00:00:00Z", []string{"2026-12-01T00:00:00Z"}},
		{"5/15 3 * * *", "UTC", "2026-11-24T03:00:00Z", []string{"2026-11-24T03:05:00Z", "2026-11-24T03:20:00Z"}},
		// The clocks go forward from 02:00 to 03:00: it fires when the gap ends.
		{"30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", []string{"2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"}},
		{"30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", []string{"2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"}},
		// They go back from 03:00 to 02:00: it fires the first time only.
		{"30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", []string{"2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"}},
		{"30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", []string{"2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"}},
		// Created in the second pass of that hour: the next one is tomorrow's.
		{"30 2 * * *", "Europe/Berlin", "2026-10-25T02:10:00+01:00", []string{"2026-10-26T02:30:00+01:00"}},
		// Every hour follows the elapsed time.
		{"0 * * * *", "Europe/Berlin", "2026-10-25T01:30:00+02:00", []string{"2026-10-25T02:00:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"}},
		// Half an hour of change, and a zone that skipped midnight.
		{"15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00:00Z", []string{"2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"}},
		{"0 0 * * *", "America/Santiago", "2026-09-05T12:00:00Z", []string{"2026-09-06T01:00:00-03:00", "2026-09-07T00:00:00-03:00"}},
	} {
		l, err := Parse(c.line, zone(t, c.zone))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		at, err := time.Parse(time.RFC3339, c.after)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range c.want {
			at = l.Next(at)
			if want, err := time.Parse(time.RFC3339, w); err != nil || !at.Equal(want) {
				t.Errorf("%s in %s: fires at %s, want %s", c.line, c.zone, at.Format(time.RFC3339), w)
				break
			}
		}
	}
}

func TestBadLinesNameEveryProblem(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"":                    "has 0 fields",
		"* * * *":             "has 4 fields",
		"60 24 0 13 8":        "minute: \"60\"\nhour: \"24\"\nday of month: \"0\"\nmonth: \"13\"\nday of week: \"8\"",
		"@fortnightly":        "not a shorthand",
		"5-1 * * * *":         "runs backwards",
		"*/0 * * * *":         "not a step",
		"0 0 31 2 *":          "never fires",
		"0 0 * FEB-NOPE *":    `"NOPE"`,
		"99999999999 * * * *": "minute",
	} {
		_, err := Parse(line, time.UTC)
		if err == nil {
			t.Errorf("%q was taken", line)
			continue
		}
		for _, part := range strings.Split(want, "\n") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%q: %v, want %q in it", line, err, part)
			}
		}
	}
}

// Fire times rise strictly, lie on whole minutes, and between two of them no
// minute's clock face matches the line, except faces that the clock repeats.
func TestFireTimesMissNothing(t *testing.T) {
	t.Parallel()
	zones := []*time.Location{time.UTC, zone(t, "Europe/Berlin"), zone(t, "America/New_York"), zone(t, "Australia/Lord_Howe"), zone(t, "Asia/Kathmandu")}
	lines := []string{"*/7 * * * *", "30 2 * * *", "0,45 1-3 * * *", "15 */6 1,15 * SUN", "59 23 31 * *"}
	rapid.Check(t, func(t *rapid.T) {
		z := rapid.SampledFrom(zones).Draw(t, "zone")
		l, err := Parse(rapid.SampledFrom(lines).Draw(t, "line"), z)
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(rapid.Int64Range(1.76e9, 1.86e9).Draw(t, "after"), 0)
		next := l.Next(at)
		if !next.After(at) || next.Second() != 0 {
			t.Fatalf("%s after %s", next, at)
		}
		if next.Sub(at) > 45*24*time.Hour {
			t.Skip("too far to look at every minute")
		}
		for m := at.Truncate(time.Minute).Add(time.Minute); m.Before(next); m = m.Add(time.Minute) {
			w := m.In(z)
			if l.matchesDay(w.Date()) && l.hour&(1<<w.Hour()) != 0 && l.minute&(1<<w.Minute()) != 0 && l.instant(w.Year(), w.Month(), w.Day(), w.Hour(), w.Minute()).Equal(m) {
				t.Fatalf("missed %s, fired at %s", w, next)
			}
		}
	})
}
