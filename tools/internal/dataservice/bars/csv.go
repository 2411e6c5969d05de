package bars

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// maxProblems bounds what one file reports: a wrong column would otherwise
// make a message as long as the history.
const maxProblems = 20

// maxLine bounds one line; a longer one means the file is no CSV.
const maxLine = 4096

// columns are the names a header may use. The first five are required.
var columns = []string{"date", "open", "high", "low", "close", "adjclose", "volume"}

const requiredColumns = 5

// Parse reads a CSV history, oldest bar first. The header names the columns in
// any order: date, open, high, low, close, and optionally adjclose and volume.
// Dates are 2006-01-02 or RFC 3339. With adjclose all prices of a line are
// scaled by adjclose/close.
//
// Every problem is reported with its line, at most 20 and then a count. Bars
// are nil when there is any problem.
func Parse(data []byte) ([]Bar, []Problem) {
	p := parser{}
	bars := p.run(string(data))
	if p.more > 0 {
		p.problems = append(p.problems, Problem{Description: fmt.Sprintf("and %d more problems like these", p.more)})
	}
	if len(p.problems) > 0 {
		return nil, p.problems
	}
	return bars, nil
}

type parser struct {
	problems []Problem
	more     int
}

func (p *parser) add(line int, format string, args ...any) {
	if len(p.problems) >= maxProblems {
		p.more++
		return
	}
	p.problems = append(p.problems, Problem{Line: line, Description: fmt.Sprintf(format, args...)})
}

func (p *parser) run(text string) []Bar {
	text = strings.TrimPrefix(text, "\ufeff")
	if strings.TrimSpace(text) == "" {
		p.add(0, "the file is empty")
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	index, ok := p.header(strings.TrimSuffix(lines[0], "\r"))
	if !ok {
		return nil
	}
	bars := make([]Bar, 0, len(lines)-1)
	var last time.Time
	lastLine := 0
	for i, line := range lines[1:] {
		number := i + 2
		bar, ok := p.line(number, number == len(lines), strings.TrimSuffix(line, "\r"), index)
		if bar.Time.IsZero() {
			continue
		}
		if lastLine > 0 && !bar.Time.After(last) {
			what := "is before"
			if bar.Time.Equal(last) {
				what = "repeats"
			}
			p.add(number, "date %s %s line %d's %s: dates must grow", stamp(bar.Time), what, lastLine, stamp(last))
		} else {
			last, lastLine = bar.Time, number
		}
		if ok {
			bars = append(bars, bar)
		}
	}
	if len(lines) == 1 {
		p.add(0, "there is a header and no bars")
	}
	return bars
}

// header maps each known column to its position, -1 where it is absent.
func (p *parser) header(line string) ([]int, bool) {
	index := make([]int, len(columns)+1)
	for i := range columns {
		index[i] = -1
	}
	fields := strings.Split(line, ",")
	index[len(columns)] = len(fields)
	before := len(p.problems)
	for at, field := range fields {
		name := strings.ToLower(strings.TrimSpace(field))
		known := false
		for i, column := range columns {
			if name != column {
				continue
			}
			known = true
			if index[i] >= 0 {
				p.add(1, "column %q appears twice", name)
			}
			index[i] = at
		}
		if !known {
			p.add(1, "unknown column %q: the columns are %s", clip(name), strings.Join(columns, ","))
		}
	}
	for i, column := range columns[:requiredColumns] {
		if index[i] < 0 {
			p.add(1, "column %q is missing", column)
		}
	}
	return index, len(p.problems) == before
}

// line reads one bar. ok is false when the line had a problem; the time is set
// whenever the date could be read, so that the order is checked all the same.
func (p *parser) line(number int, isLast bool, line string, index []int) (bar Bar, ok bool) {
	if len(line) > maxLine {
		p.add(number, "the line has %d characters, the longest allowed is %d", len(line), maxLine)
		return bar, false
	}
	if strings.TrimSpace(line) == "" {
		p.add(number, "the line is empty")
		return bar, false
	}
	fields := strings.Split(line, ",")
	if want := index[len(columns)]; len(fields) != want {
		hint := ""
		if isLast && len(fields) < want {
			hint = ": the file looks truncated"
		}
		p.add(number, "%d fields where the header has %d%s", len(fields), want, hint)
		return bar, false
	}
	before := len(p.problems) + p.more
	date := strings.TrimSpace(fields[index[0]])
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		at, err = time.Parse(time.RFC3339, date)
	}
	if err != nil {
		p.add(number, "date %q is neither 2006-01-02 nor RFC 3339", clip(date))
	} else {
		bar.Time = at.UTC()
	}
	value := func(column int, least float64, rule string) float64 {
		if index[column] < 0 {
			return 0
		}
		text := strings.TrimSpace(fields[index[column]])
		v, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil || math.IsNaN(v) || math.IsInf(v, 0):
			p.add(number, "%s %q is not a finite number", columns[column], clip(text))
			return math.NaN()
		case v < least:
			p.add(number, "%s %s is not %s", columns[column], text, rule)
			return math.NaN()
		}
		return v
	}
	const smallest = math.SmallestNonzeroFloat64
	bar.Open = value(1, smallest, "positive")
	bar.High = value(2, smallest, "positive")
	bar.Low = value(3, smallest, "positive")
	bar.Close = value(4, smallest, "positive")
	if index[5] >= 0 {
		adjusted := value(5, smallest, "positive")
		if scale := adjusted / bar.Close; scale != 1 {
			bar.Open *= scale
			bar.High *= scale
			bar.Low *= scale
			bar.Close = adjusted
		}
	}
	bar.Volume = value(6, 0, "zero or more")
	if len(p.problems)+p.more > before {
		return bar, false
	}
	// The scaling above rounds: a part in 1e9 is not a wrong bar.
	slack := 1 + 1e-9
	if bar.High*slack < max(bar.Open, bar.Close, bar.Low) {
		p.add(number, "high %g is below the bar's other prices", bar.High)
	}
	if bar.Low > min(bar.Open, bar.Close)*slack {
		p.add(number, "low %g is above the bar's open or close", bar.Low)
	}
	return bar, len(p.problems)+p.more == before
}

func stamp(t time.Time) string {
	if t.Equal(t.Truncate(24 * time.Hour)) {
		return t.Format(time.DateOnly)
	}
	return t.Format(time.RFC3339)
}

// clip keeps a bad value short in a message.
func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "..."
	}
	return s
}
