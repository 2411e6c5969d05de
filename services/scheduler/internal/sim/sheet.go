package sim

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
)

// sheet reads a CSV file by the names in its header, in any order, and collects
// everything that is wrong with it: a person mends a trace once and not once per
// mistake.
type sheet struct {
	csv      *csv.Reader
	at       map[string]int
	width    int
	cells    []string
	line     int
	problems []error
	more     int
}

// problemLimit is how many problems of one file are worth reading.
const problemLimit = 20

// openSheet reads the header. Columns that are required and missing are the only
// problem that ends the reading at once.
func openSheet(r io.Reader, required ...string) (*sheet, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord, c.ReuseRecord, c.LazyQuotes = -1, true, true
	head, err := c.Read()
	switch {
	case errors.Is(err, io.EOF):
		return nil, errors.New("line 1: the file is empty; it has to begin with a header")
	case err != nil:
		return nil, fmt.Errorf("no header: %w", err)
	}
	s := &sheet{csv: c, at: map[string]int{}, width: len(head)}
	for i, h := range head {
		// Spreadsheets put a byte order mark before the first name.
		h = strings.TrimSpace(strings.TrimPrefix(h, "\ufeff"))
		if _, twice := s.at[h]; twice && h != "" {
			s.problems = append(s.problems, fmt.Errorf("line 1: the header has the column %s twice", h))
		}
		s.at[h] = i
	}
	var missing []string
	for _, name := range required {
		if _, ok := s.at[name]; !ok {
			missing = append(missing, name)
		}
	}
	if missing != nil {
		return nil, fmt.Errorf("line 1: the header lacks the columns %s", strings.Join(missing, ", "))
	}
	return s, nil
}

// next goes to the next row; false at the end.
func (s *sheet) next() bool {
	for {
		rec, err := s.csv.Read()
		if errors.Is(err, io.EOF) {
			return false
		}
		if err != nil {
			var p *csv.ParseError
			if !errors.As(err, &p) {
				s.complain("%v", err)
				return false
			}
			s.line = p.Line
			s.complain("%v", p.Err)
			continue
		}
		s.line, _ = s.csv.FieldPos(0)
		s.cells = rec
		if blank(rec) {
			continue
		}
		if len(rec) < s.width {
			s.complain("%d columns, the header has %d", len(rec), s.width)
			continue
		}
		return true
	}
}

func blank(rec []string) bool {
	for _, c := range rec {
		if strings.TrimSpace(c) != "" {
			return false
		}
	}
	return true
}

func (s *sheet) complain(format string, args ...any) {
	if len(s.problems) == problemLimit {
		s.more++
		return
	}
	s.problems = append(s.problems, fmt.Errorf("line %d: "+format, append([]any{s.line}, args...)...))
}

// err is everything that was wrong, or nil.
func (s *sheet) err() error {
	if s.more > 0 {
		return errors.Join(append(s.problems, fmt.Errorf("and %d more problem(s)", s.more))...)
	}
	return errors.Join(s.problems...)
}

// text is a cell; empty when the file has no such column.
func (s *sheet) text(column string) string {
	i, ok := s.at[column]
	if !ok {
		return ""
	}
	return strings.TrimSpace(s.cells[i])
}

// number is a cell between two bounds.
func (s *sheet) number(column string, low, high float64) float64 {
	cell := s.text(column)
	v, err := strconv.ParseFloat(cell, 64)
	switch {
	case cell == "":
		s.complain("%s is empty", column)
	case err != nil || math.IsNaN(v):
		s.complain("%s %q is not a number", column, cell)
	case v < low || v > high:
		s.complain("%s %s is not between %s and %s", column, cell, plain(low), plain(high))
	default:
		return v
	}
	return low
}

// integer is a whole number between two bounds.
func (s *sheet) integer(column string, low, high int64) int64 {
	before := len(s.problems) + s.more
	v := s.number(column, float64(low), float64(high))
	if len(s.problems)+s.more == before && v != math.Trunc(v) {
		s.complain("%s %q is not a whole number", column, s.text(column))
	}
	return int64(v)
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
