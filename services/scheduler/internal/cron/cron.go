// Package cron reads cron lines and says when they fire, in a time zone with
// changes of the clocks.
//
// It is its own small parser: the libraries of the field skip a job whose local
// time a change of the clocks leaves out, and run one twice when it repeats it.
// A nightly retraining must do neither.
package cron

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"time"
)

// Line is a parsed cron line in its time zone.
type Line struct {
	minute, hour, day, month, weekday uint64
	// anyDay and anyWeekday say that the field is a star: when both days are
	// restricted, either matches.
	anyDay, anyWeekday bool
	zone               *time.Location
}

type field struct {
	name     string
	low, top int
	names    []string
	first    int // the value of names[0]
}

var fields = [...]field{
	{name: "minute", low: 0, top: 59},
	{name: "hour", low: 0, top: 23},
	{name: "day of month", low: 1, top: 31},
	{name: "month", low: 1, top: 12, names: strings.Fields("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC"), first: 1},
	{name: "day of week", low: 0, top: 7, names: strings.Fields("SUN MON TUE WED THU FRI SAT")},
}

var shorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// Parse reads a line of five fields or a shorthand. The error lists everything
// that is wrong, one problem a line.
func Parse(line string, zone *time.Location) (Line, error) {
	text := strings.TrimSpace(line)
	if strings.HasPrefix(text, "@") {
		long, ok := shorthands[strings.ToLower(text)]
		if !ok {
			return Line{}, fmt.Errorf("%q is not a shorthand; known are @hourly, @daily, @weekly, @monthly and @yearly", text)
		}
		text = long
	}
	parts := strings.Fields(text)
	if len(parts) != len(fields) {
		return Line{}, fmt.Errorf("%q has %d fields; write five: minute hour day-of-month month day-of-week", line, len(parts))
	}
	var sets [len(fields)]uint64
	var problems []string
	for i, f := range fields {
		set, err := f.parse(parts[i])
		if err != nil {
			problems = append(problems, err.Error())
		}
		sets[i] = set
	}
	if len(problems) > 0 {
		return Line{}, fmt.Errorf("%s", strings.Join(problems, "\n"))
	}
	if sets[4]&(1<<7) != 0 {
		sets[4] |= 1 // 7 is Sunday too
	}
	l := Line{
		minute: sets[0], hour: sets[1], day: sets[2], month: sets[3], weekday: sets[4],
		anyDay: strings.HasPrefix(parts[2], "*"), anyWeekday: strings.HasPrefix(parts[4], "*"), zone: zone,
	}
	if l.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, zone)).IsZero() {
		return Line{}, fmt.Errorf("%q never fires: no month has that day", line)
	}
	return l, nil
}

func (f field) parse(text string) (uint64, error) {
	var set uint64
	for _, part := range strings.Split(text, ",") {
		span, stepText, stepped := strings.Cut(part, "/")
		step := 1
		if stepped {
			var err error
			if step, err = strconv.Atoi(stepText); err != nil || step < 1 || step > f.top {
				return 0, fmt.Errorf("%s: %q is not a step of 1 to %d", f.name, stepText, f.top)
			}
		}
		low, top := f.low, f.top
		if span != "*" {
			from, to, ranged := strings.Cut(span, "-")
			var err error
			if low, err = f.value(from); err != nil {
				return 0, err
			}
			switch {
			case ranged:
				if top, err = f.value(to); err != nil {
					return 0, err
				}
			case !stepped:
				top = low
			}
			if top < low {
				return 0, fmt.Errorf("%s: %q runs backwards", f.name, span)
			}
		}
		for v := low; v <= top; v += step {
			set |= 1 << v
		}
	}
	return set, nil
}

func (f field) value(text string) (int, error) {
	for i, n := range f.names {
		if strings.EqualFold(text, n) {
			return f.first + i, nil
		}
	}
	v, err := strconv.Atoi(text)
	if err != nil || v < f.low || v > f.top {
		return 0, fmt.Errorf("%s: %q is not a value of %d to %d", f.name, text, f.low, f.top)
	}
	return v, nil
}

func (l Line) matchesDay(year int, month time.Month, day int) bool {
	if l.month&(1<<month) == 0 {
		return false
	}
	dom := l.day&(1<<day) != 0
	dow := l.weekday&(1<<time.Date(year, month, day, 0, 0, 0, 0, time.UTC).Weekday()) != 0
	switch {
	case l.anyDay || l.anyWeekday:
		return dom && dow
	default:
		return dom || dow
	}
}

const (
	allHours = 1<<24 - 1
	// horizon covers the longest gap between two leap days.
	horizon = 9 * 366
)

// Next is the first fire time after the given one; zero when there is none. A
// local time that a change of the clocks leaves out fires when the gap ends; one
// that it repeats fires the first time only. A line of every hour follows the
// elapsed time instead: its people count hours and not clock faces.
func (l Line) Next(after time.Time) time.Time {
	at := after.In(l.zone)
	year, month, day := at.Date()
	if l.hour == allHours {
		return l.nextElapsed(at)
	}
	from := at.Hour()*60 + at.Minute() + 1
	for range horizon {
		if l.matchesDay(year, month, day) {
			for hours := l.hour; hours != 0; hours &= hours - 1 {
				h := bits.TrailingZeros64(hours)
				for minutes := l.minute; minutes != 0; minutes &= minutes - 1 {
					m := bits.TrailingZeros64(minutes)
					if h*60+m < from {
						continue
					}
					if t := l.instant(year, month, day, h, m); t.After(after) {
						return t
					}
				}
			}
		}
		year, month, day = time.Date(year, month, day+1, 12, 0, 0, 0, time.UTC).Date()
		from = 0
	}
	return time.Time{}
}

func (l Line) nextElapsed(at time.Time) time.Time {
	t := at.Truncate(time.Minute).Add(time.Minute)
	if off := t.Second(); off != 0 { // zones of old have odd seconds
		t = t.Add(time.Duration(60-off) * time.Second)
	}
	for limit := t.AddDate(9, 0, 0); t.Before(limit); {
		year, month, day := t.Date()
		if !l.matchesDay(year, month, day) {
			next := time.Date(year, month, day+1, 0, 0, 0, 0, l.zone)
			if !next.After(t) {
				next = t.Add(time.Hour)
			}
			t = next
			continue
		}
		if l.minute&(1<<t.Minute()) != 0 {
			return t
		}
		t = t.Add(time.Minute)
	}
	return time.Time{}
}

// instant is when the clock first shows a local time, or, when it never does,
// when the gap that swallows it ends.
func (l Line) instant(year int, month time.Month, day, hour, minute int) time.Time {
	t := time.Date(year, month, day, hour, minute, 0, 0, l.zone)
	start, end := t.ZoneBounds()
	wall := t.Hour()*60 + t.Minute()
	switch want := hour*60 + minute; {
	case t.Day() == day && wall == want:
		if start.IsZero() {
			return t
		}
		// The same local time under the rules before the last change.
		_, now := t.Zone()
		_, was := start.Add(-time.Second).Zone()
		if earlier := t.Add(time.Duration(now-was) * time.Second); earlier.Before(start) {
			return earlier
		}
		return t
	case t.Day() > day || t.Day() == day && wall > want:
		return start
	default:
		return end
	}
}
