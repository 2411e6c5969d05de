package market

import "math"

// featureClip bounds a standardised feature: a crash must not saturate the net.
const featureClip = 5

// Scaler standardises features with the statistics of the TRAIN bars only. It is
// part of a model: inference uses the same one.
type Scaler struct {
	Mean  []float32 // per feature
	Scale []float32 // 1 over standard deviation; 0 for a constant feature
}

// FitScaler computes the statistics over the bars of r.
func FitScaler(t *Table, r Range) Scaler {
	w := len(t.FeatureNames)
	s := Scaler{Mean: make([]float32, w), Scale: make([]float32, w)}
	n := float64(r.Len())
	for j := range w {
		var sum float64
		for i := r.From; i < r.To; i++ {
			sum += float64(t.Features[i*w+j])
		}
		mean := sum / n
		var square float64
		for i := r.From; i < r.To; i++ {
			d := float64(t.Features[i*w+j]) - mean
			square += d * d
		}
		s.Mean[j] = float32(mean)
		if sd := math.Sqrt(square / n); sd > 1e-12 {
			s.Scale[j] = float32(1 / sd)
		}
	}
	return s
}

// Apply writes the standardised, clipped form of raw to dst.
func (s Scaler) Apply(dst, raw []float32) {
	for j, v := range raw {
		z := (v - s.Mean[j]) * s.Scale[j]
		dst[j] = max(-featureClip, min(featureClip, z))
	}
}
