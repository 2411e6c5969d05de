package series

import (
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// Rollup stands for a run of neighbouring visible points: their number, their first and
// last step, and those of them that MinMax keeps.
type Rollup struct {
	FirstStep, LastStep int64
	Points              int
	Kept                []Point
}

const (
	// RollupPoints is how many points one rollup stands for, a few more where a step has
	// several: small enough that a thousand-point view of some hundred thousand points
	// still rests on several kept points per pixel.
	RollupPoints = 256
	rollupKept   = 4
)

// RollUp cuts sorted visible points into rollups and returns those that are full. The last
// step is left out: a writer may not be done with it. Steps are never split, so that a
// rollup is right as long as nothing is written at or below its last step.
func RollUp(points []Point) []Rollup {
	if len(points) > 0 {
		points = points[:firstOfLast(points)]
	}
	var out []Rollup
	start := 0
	for i := range points {
		full := i-start+1 >= RollupPoints
		stepEnds := i+1 == len(points) || points[i+1].Step != points[i].Step
		if !full || !stepEnds {
			continue
		}
		part := points[start : i+1]
		out = append(out, Rollup{FirstStep: part[0].Step, LastStep: part[len(part)-1].Step, Points: len(part), Kept: keep(part)})
		start = i + 1
	}
	return out
}

// firstOfLast is the index of the first point of the last step.
func firstOfLast(points []Point) int {
	i := len(points) - 1
	for i > 0 && points[i-1].Step == points[i].Step {
		i--
	}
	return i
}

// keep returns, in order, the lowest and the highest finite point and the first that is
// neither, besides the first.
func keep(points []Point) []Point {
	low, high, odd := -1, -1, -1
	for i, p := range points {
		switch {
		case math.IsNaN(p.Value) || math.IsInf(p.Value, 0):
			if odd < 0 {
				odd = i
			}
		case low < 0:
			low, high = i, i
		case p.Value < points[low].Value:
			low = i
		case p.Value > points[high].Value:
			high = i
		}
	}
	out := make([]Point, 0, rollupKept)
	for i, p := range points {
		if i == 0 || i == low || i == high || i == odd {
			out = append(out, p)
		}
	}
	return out
}

// PackedPoint is the length of a packed point.
const PackedPoint = 28

// Pack encodes points for storage.
func Pack(points []Point) []byte {
	b := make([]byte, 0, len(points)*PackedPoint)
	for _, p := range points {
		b = binary.BigEndian.AppendUint64(b, uint64(p.Step))
		b = binary.BigEndian.AppendUint64(b, uint64(p.Time.UnixMicro()))
		b = binary.BigEndian.AppendUint32(b, uint32(p.Attempt))
		b = binary.BigEndian.AppendUint64(b, math.Float64bits(p.Value))
	}
	return b
}

// ErrPacked is the error of bytes that Pack did not make.
var ErrPacked = errors.New("packed points are damaged")

// Unpack appends what Pack encoded to points.
func Unpack(points []Point, b []byte) ([]Point, error) {
	if len(b)%PackedPoint != 0 {
		return nil, ErrPacked
	}
	for ; len(b) > 0; b = b[PackedPoint:] {
		points = append(points, Point{
			Step:    int64(binary.BigEndian.Uint64(b)),
			Time:    time.UnixMicro(int64(binary.BigEndian.Uint64(b[8:]))).UTC(),
			Attempt: int32(binary.BigEndian.Uint32(b[16:])),
			Value:   math.Float64frombits(binary.BigEndian.Uint64(b[20:])),
		})
	}
	return points, nil
}
