package series

import "math"

// MinMax thins sorted points to at most limit, keeping first and last and, of every bucket
// of equal point count, its lowest and its highest: spikes survive, which is what a person
// looks for in a loss curve. Non-finite values are kept as their bucket's representative
// when the bucket holds one: a NaN must never be thinned out of sight. A limit under 4
// is raised to 4.
func MinMax(points []Point, limit int) []Point {
	limit = max(limit, 4)
	if len(points) <= limit {
		return points
	}
	buckets := (limit - 2) / 2
	inner := points[1 : len(points)-1]
	out := make([]Point, 0, limit)
	out = append(out, points[0])
	for b := range buckets {
		lo, hi := len(inner)*b/buckets, len(inner)*(b+1)/buckets
		first, second := extremes(inner, lo, hi)
		out = append(out, inner[first])
		if second != first {
			out = append(out, inner[second])
		}
	}
	return append(out, points[len(points)-1])
}

// extremes returns the indices of the two representatives of inner[lo:hi], in order.
func extremes(inner []Point, lo, hi int) (first, second int) {
	low, high, odd := -1, -1, -1
	for i := lo; i < hi; i++ {
		v := inner[i].Value
		if math.IsNaN(v) || math.IsInf(v, 0) {
			if odd < 0 {
				odd = i
			}
			continue
		}
		if low < 0 || v < inner[low].Value {
			low = i
		}
		if high < 0 || v > inner[high].Value {
			high = i
		}
	}
	switch {
	case low < 0:
		return odd, odd
	case odd >= 0:
		high = odd
	}
	return min(low, high), max(low, high)
}

// LTTB thins sorted points to limit by largest-triangle-three-buckets (Steinarsson 2013):
// of each bucket it keeps the point that spans the largest triangle with the point kept
// before and the next bucket's mean, which follows a curve's shape better than MinMax at
// small limits. A non-finite value in a bucket is kept in its place. A limit under 3 is
// raised to 3.
func LTTB(points []Point, limit int) []Point {
	limit = max(limit, 3)
	if len(points) <= limit {
		return points
	}
	buckets := limit - 2
	inner := points[1 : len(points)-1]
	out := make([]Point, 0, limit)
	out = append(out, points[0])
	anchor := points[0]
	for b := range buckets {
		lo, hi := len(inner)*b/buckets, len(inner)*(b+1)/buckets
		var meanX, meanY float64
		if b == buckets-1 {
			last := points[len(points)-1]
			meanX, meanY = float64(last.Step), last.Value
		} else {
			meanX, meanY = mean(inner[hi : len(inner)*(b+2)/buckets])
		}
		pick := lo
		best := -1.0
		for i := lo; i < hi; i++ {
			p := inner[i]
			if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
				pick = i
				break
			}
			area := math.Abs((float64(anchor.Step)-meanX)*(p.Value-anchor.Value) -
				(float64(anchor.Step)-float64(p.Step))*(meanY-anchor.Value))
			if area > best {
				best, pick = area, i
			}
		}
		out = append(out, inner[pick])
		if v := inner[pick].Value; !math.IsNaN(v) && !math.IsInf(v, 0) {
			anchor = inner[pick]
		}
	}
	return append(out, points[len(points)-1])
}

func mean(points []Point) (x, y float64) {
	n := 0.0
	for _, p := range points {
		if math.IsNaN(p.Value) || math.IsInf(p.Value, 0) {
			continue
		}
		x, y, n = x+float64(p.Step), y+p.Value, n+1
	}
	if n == 0 {
		return 0, 0
	}
	return x / n, y / n
}
