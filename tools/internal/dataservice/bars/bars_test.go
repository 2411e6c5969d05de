package bars

import (
	"strings"
	"testing"
	"time"
)

const header = "date,open,high,low,close,adjclose,volume\n"

func TestParseAccepts(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"final newline":    header + "2020-01-02,10,12,9,11,11,100\n",
		"no final newline": header + "2020-01-02,10,12,9,11,11,100",
		"crlf and bom":     "\ufeff" + strings.ReplaceAll(header, "\n", "\r\n") + "2020-01-02,10,12,9,11,11,100\r\n",
		"other order":      "close,low,high,open,date\n11,9,12,10,2020-01-02\n",
		"intraday":         "date,open,high,low,close\n2020-01-02T09:30:00-05:00,10,12,9,11\n",
	} {
		got, problems := Parse([]byte(text))
		if len(problems) > 0 || len(got) != 1 {
			t.Errorf("%s: %d bars, problems %v", name, len(got), problems)
			continue
		}
		if b := got[0]; b.Open != 10 || b.High != 12 || b.Low != 9 || b.Close != 11 {
			t.Errorf("%s: %+v", name, b)
		}
	}
	got, _ := Parse([]byte("date,open,high,low,close\n2020-01-02T09:30:00-05:00,10,12,9,11\n"))
	if want := time.Date(2020, 1, 2, 14, 30, 0, 0, time.UTC); !got[0].Time.Equal(want) {
		t.Errorf("time %v, want %v", got[0].Time, want)
	}
}

func TestParseAdjustsEveryPrice(t *testing.T) {
	t.Parallel()
	got, problems := Parse([]byte(header + "2020-01-02,10,12,8,10,5,100\n"))
	if problems != nil {
		t.Fatal(problems)
	}
	if b := got[0]; b.Open != 5 || b.High != 6 || b.Low != 4 || b.Close != 5 {
		t.Fatalf("%+v", b)
	}
}

func TestParseNamesEveryProblemWithItsLine(t *testing.T) {
	t.Parallel()
	good := "2020-01-02,10,12,9,11,11,100\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"empty":       {"", []string{"the file is empty"}},
		"no bars":     {header, []string{"no bars"}},
		"header":      {"date,open,high,lo,close,open\n" + good, []string{`unknown column "lo"`, `"open" appears twice`, `"low" is missing`}},
		"truncated":   {header + good + "2020-01-03,10,1", []string{"line 3: 3 fields where the header has 7: the file looks truncated"}},
		"short":       {header + "2020-01-01,10\n" + good, []string{"line 2: 2 fields where the header has 7"}},
		"numbers":     {header + "2020-01-02,x,12,9,NaN,-1,1e999\n", []string{`line 2: open "x"`, `close "NaN"`, "adjclose -1 is not positive", `volume "1e999"`}},
		"volume":      {header + "2020-01-02,10,12,9,11,11,-5\n", []string{"volume -5 is not zero or more"}},
		"blank":       {header + "\n" + good, []string{"line 2: the line is empty"}},
		"unordered":   {header + good + "2020-01-01,10,12,9,11,11,1\n", []string{"line 3: date 2020-01-01 is before line 2's 2020-01-02"}},
		"repeated":    {header + good + good, []string{"line 3: date 2020-01-02 repeats line 2's"}},
		"bad date":    {header + "02.01.2020,10,12,9,11,11,1\n", []string{`line 2: date "02.01.2020"`}},
		"high":        {header + "2020-01-02,10,10.5,9,11,11,1\n", []string{"line 2: high 10.5 is below"}},
		"low":         {header + "2020-01-02,10,12,10.5,11,11,1\n", []string{"line 2: low 10.5 is above"}},
		"two at once": {header + "x,1,1,1,1,1,1\n2020-01-02,0,1,1,1,1,1\n", []string{`line 2: date "x"`, "line 3: open 0 is not positive"}},
	} {
		got, problems := Parse([]byte(c.text))
		if got != nil || len(problems) < len(c.want) {
			t.Errorf("%s: bars %v, problems %v, want %v", name, got, problems, c.want)
			continue
		}
		var all strings.Builder
		for _, p := range problems {
			all.WriteString(p.String() + "\n")
		}
		for _, w := range c.want {
			if !strings.Contains(all.String(), w) {
				t.Errorf("%s: %q not in:\n%s", name, w, all.String())
			}
		}
	}
}

func TestParseBoundsItsReport(t *testing.T) {
	t.Parallel()
	_, problems := Parse([]byte(header + strings.Repeat("bad\n", 1000)))
	if len(problems) != maxProblems+1 || !strings.Contains(problems[maxProblems].String(), "and 980 more") {
		t.Fatalf("%d problems, last %v", len(problems), problems[len(problems)-1])
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(header + "2020-01-02,10,12,9,11,11,100\n"))
	f.Add([]byte("date,open,high,low,close\r\n2020-01-02,1,1,1,1"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, problems := Parse(data)
		if (got == nil) == (problems == nil) {
			t.Fatalf("%d bars and %d problems", len(got), len(problems))
		}
		for i, b := range got {
			if !(b.Close > 0) || i > 0 && !b.Time.After(got[i-1].Time) {
				t.Fatalf("accepted bar %d: %+v", i, b)
			}
		}
	})
}

func day(date string, open, high, low, closing float64) Bar {
	at, err := time.Parse(time.DateOnly, date)
	if err != nil {
		panic(err)
	}
	return Bar{Time: at, Open: open, High: high, Low: low, Close: closing, Volume: 1}
}

func TestWeeklyResamplesAndLeavesOutAnOpenWeek(t *testing.T) {
	t.Parallel()
	daily := []Bar{
		day("2020-01-02", 10, 12, 9, 11), day("2020-01-03", 11, 14, 10, 13), // Thursday, Friday
		day("2020-01-06", 13, 13, 7, 8), day("2020-01-09", 8, 9, 8, 9), // a week that ends on a Thursday
		day("2020-01-13", 9, 9, 9, 9), // a Monday: this week is still open
	}
	got := Weekly(daily)
	if len(got) != 2 {
		t.Fatalf("%d weeks: %+v", len(got), got)
	}
	if w := got[0]; w.Open != 10 || w.High != 14 || w.Low != 9 || w.Close != 13 || w.Volume != 2 || w.Time != daily[0].Time {
		t.Errorf("first week %+v", w)
	}
	if w := got[1]; w.Close != 9 || w.Low != 7 {
		t.Errorf("second week %+v", w)
	}
	if got := Weekly(daily[:4]); len(got) != 1 {
		t.Errorf("a week known to Thursday only was served: %+v", got)
	}
}
