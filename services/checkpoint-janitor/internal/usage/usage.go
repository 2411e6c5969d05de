// Package usage reads the store's size over time: what each class of
// checkpoints takes, how fast the whole grows, and when it will be full.
package usage

import (
	"sort"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Total is the class of the whole bucket.
const Total = "total"

// ColdTier is the class of all packed copies.
const ColdTier = "cold tier"

// Class is the usage of one class of checkpoints. Contents that several share
// count for each: only [Total] is what the disk holds.
type Class struct {
	Name    string `json:"name"`
	Objects int64  `json:"objects"`
	Bytes   int64  `json:"bytes"`
	// GrowthPerDay is in bytes, [Growth] of the class; GrowthKnown is false while there is
	// too little history to say.
	GrowthPerDay float64 `json:"growth_bytes_per_day"`
	GrowthKnown  bool    `json:"growth_known"`
}

// Point is the size of the bucket, or of a class, at an instant.
type Point struct {
	Time  time.Time `json:"time"`
	Bytes int64     `json:"bytes"`
}

// History has the samples of each class, oldest first, and those of the whole bucket under
// [Total]. A class without checkpoints has no sample.
type History map[string][]Point

// Of returns a class at every instant at which the bucket was sampled, with zeros where the
// class had nothing: it would otherwise seem never to have been smaller.
func (h History) Of(class string) []Point {
	at := make(map[time.Time]int64, len(h[class]))
	for _, p := range h[class] {
		at[p.Time] = p.Bytes
	}
	out := make([]Point, len(h[Total]))
	for i, p := range h[Total] {
		out[i] = Point{p.Time, at[p.Time]}
	}
	return out
}

// Classes sums a plan by class, largest first.
func Classes(p retention.Plan) []Class {
	sums := map[string]*Class{}
	for _, d := range p.Decisions {
		name := ClassOf(d)
		if sums[name] == nil {
			sums[name] = &Class{Name: name}
		}
		sums[name].Objects++
		sums[name].Bytes += d.Bytes
	}
	out := make([]Class, 0, len(sums))
	for _, c := range sums {
		out = append(out, *c)
	}
	sort.Slice(out, func(i, k int) bool {
		if out[i].Bytes != out[k].Bytes {
			return out[i].Bytes > out[k].Bytes
		}
		return out[i].Name < out[k].Name
	})
	return out
}

// ClassOf names the class of a checkpoint: its state where that says all, else
// the strongest reason for which it is kept.
func ClassOf(d retention.Decision) string {
	switch {
	case d.State != retention.StateLive:
		return d.State.String()
	case d.Archived:
		return "archived"
	case d.Verdict == retention.Drop:
		return "to be deleted"
	}
	for _, r := range d.Reasons {
		switch r.Code {
		case retention.CodeProduction:
			return "production"
		case retention.CodeStaging, retention.CodeAlias, retention.CodeVersion, retention.CodeRollback:
			return "registered"
		}
	}
	for _, r := range d.Reasons {
		switch r.Code {
		case retention.CodeTopRank:
			return "top ranked"
		case retention.CodePin, retention.CodeLegalHold, retention.CodeRestored:
			return "held by people"
		case retention.CodeLiveJob:
			return "live jobs"
		}
	}
	return "other"
}

// Growth is the slope of the least-squares line through the points, in bytes
// per day; ok is false when they span less than an hour, because then it says
// more about one upload than about a day. A mean of first and last is not used:
// it would hang on the two samples at the ends.
func Growth(points []Point) (perDay float64, ok bool) {
	if len(points) < 2 || points[len(points)-1].Time.Sub(points[0].Time) < time.Hour {
		return 0, false
	}
	var sx, sy, sxx, sxy float64
	for _, p := range points {
		x := p.Time.Sub(points[0].Time).Hours() / 24
		y := float64(p.Bytes)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	n := float64(len(points))
	det := n*sxx - sx*sx
	if det <= 0 {
		return 0, false
	}
	return (n*sxy - sx*sy) / det, true
}

// Forecast is when the bucket reaches the given part of the capacity; ok is
// false when it never does or nobody knows the capacity. What is full already is
// full now. Beyond a century the answer is never.
func Forecast(now time.Time, used, capacity int64, fraction, perDay float64) (full time.Time, ok bool) {
	if capacity <= 0 {
		return time.Time{}, false
	}
	left := fraction*float64(capacity) - float64(used)
	if left <= 0 {
		return now, true
	}
	if perDay <= 0 {
		return time.Time{}, false
	}
	days := left / perDay
	if days > 36500 {
		return time.Time{}, false
	}
	return now.Add(time.Duration(days * 24 * float64(time.Hour))), true
}
