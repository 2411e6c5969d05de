// Package bars reads price histories and resamples them.
//
// It is pure: bytes in, bars or problems out. A history is accepted whole or
// not at all. Skipping a bad line was rejected: a hole in a price history
// becomes a false return, and a model learns it.
package bars

import (
	"fmt"
	"regexp"
	"time"
)

// Bar is one period of trading. Prices are in the quote currency, adjusted for
// splits and dividends when the source says how; volume is in units traded.
type Bar struct {
	// Time is the opening time of the bar, UTC.
	Time                   time.Time
	Open, High, Low, Close float64
	Volume                 float64
}

// Problem is one thing wrong with a history. Line counts from 1; 0 means the
// whole file.
type Problem struct {
	Line        int
	Description string
}

// String returns "line N: description".
func (p Problem) String() string {
	if p.Line == 0 {
		return p.Description
	}
	return fmt.Sprintf("line %d: %s", p.Line, p.Description)
}

var (
	symbolPattern    = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)
	timeframePattern = regexp.MustCompile(`^[1-9][0-9]{0,2}[smhdwM]$`)
)

// ValidSymbol says whether a text can name a symbol: it is also a file name.
func ValidSymbol(s string) bool { return symbolPattern.MatchString(s) }

// ValidTimeframe says whether a text is a timeframe such as 15m, 1h, 1d or 1w.
func ValidTimeframe(s string) bool { return timeframePattern.MatchString(s) }

// Weekly resamples daily bars to ISO weeks: first open, highest high, lowest
// low, last close, summed volume, stamped with the first trading day.
//
// A last week that has not reached its Friday is left out: its bar would change
// with every new day, and with it features that were already served.
func Weekly(daily []Bar) []Bar {
	var out []Bar
	for i := 0; i < len(daily); {
		year, week := daily[i].Time.ISOWeek()
		w := daily[i]
		j := i + 1
		for ; j < len(daily); j++ {
			b := daily[j]
			if y, k := b.Time.ISOWeek(); y != year || k != week {
				break
			}
			w.High, w.Low = max(w.High, b.High), min(w.Low, b.Low)
			w.Close = b.Close
			w.Volume += b.Volume
		}
		last := daily[j-1].Time.Weekday()
		if j < len(daily) || last == time.Friday || last == time.Saturday || last == time.Sunday {
			out = append(out, w)
		}
		i = j
	}
	return out
}
