package cli

import (
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// table aligns columns by what a terminal shows; text/tabwriter counts the bytes
// of "█" and "–" wrongly.
type table struct {
	header []string
	rows   [][]string
	// right has the columns that are aligned to the right.
	right map[int]bool
}

func newTable(header ...string) *table { return &table{header: header, right: map[int]bool{}} }

// numbers aligns columns to the right.
func (t *table) numbers(columns ...int) *table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

func (t *table) write(w io.Writer) error {
	widths := make([]int, len(t.header))
	all := append([][]string{t.header}, t.rows...)
	for _, row := range all {
		for i, cell := range row {
			widths[i] = max(widths[i], len([]rune(cell)))
		}
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", widths[i]-len([]rune(cell)))
			if t.right[i] {
				line.WriteString(pad + cell)
			} else {
				line.WriteString(cell + pad)
			}
			line.WriteString("  ")
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(line.String(), " ")); err != nil {
			return err
		}
	}
	return nil
}

// show prints an answer as the person wants it.
func (a *app) show(answer proto.Message, people func(w io.Writer) error) error {
	if a.output == "json" {
		data, err := protojson.MarshalOptions{Multiline: true, Indent: "  ", EmitUnpopulated: false, UseProtoNames: true}.Marshal(answer)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.out, "%s\n", data)
		return err
	}
	return people(a.out)
}

func bytesText(n int64) string {
	const unit = 1024
	if n < unit && n > -unit {
		return fmt.Sprintf("%d B", n)
	}
	value, exponent := float64(n), 0
	for math.Abs(value) >= unit && exponent < 5 {
		value /= unit
		exponent++
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[exponent-1])
}

func numberText(v float64, format string) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return fmt.Sprintf(format, v)
}

func percentText(v float64) string { return numberText(100*v, "%+.1f %%") }

// metricText is a metric of a map, "–" when it is missing.
func metricText(metrics map[string]float64, key, format string) string {
	v, ok := metrics[key]
	if !ok {
		return "–"
	}
	return numberText(v, format)
}

func metricPercent(metrics map[string]float64, key string) string {
	v, ok := metrics[key]
	if !ok {
		return "–"
	}
	return percentText(v)
}

// ageText is the time since then, coarse.
func ageText(t *timestamppb.Timestamp, now time.Time) string {
	if t == nil {
		return "–"
	}
	return spanText(now.Sub(t.AsTime()))
}

func spanText(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func timeText(t *timestamppb.Timestamp) string {
	if t == nil {
		return "–"
	}
	return t.AsTime().Local().Format("2006-01-02 15:04:05")
}

// enumText turns STATE_RUNNING into "running".
func enumText(name, prefix string) string {
	return strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(name, prefix), "_", " "))
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}
