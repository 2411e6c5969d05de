package learner

import "math"

// exp is the exponential for |x| < 700, with a relative error below 1e-14.
// math.Exp takes another path on processors with FMA, and a run must not depend
// on that; the conversions forbid the compiler to fuse.
func exp(x float64) float64 {
	if !(x > -700) {
		if x != x {
			return x
		}
		return 0
	}
	if x > 700 {
		return math.Inf(1)
	}
	const (
		ln2Hi = 6.93147180369123816490e-01
		ln2Lo = 1.90821492927058770002e-10
	)
	k := math.Floor(float64(x*math.Log2E) + 0.5)
	r := (x - float64(k*ln2Hi)) - float64(k*ln2Lo)
	// The Taylor series to the eleventh power, in pairs (Estrin): Horner's chain is
	// three times as long for the processor.
	r2 := float64(r * r)
	r4 := float64(r2 * r2)
	low := (1 + r) + float64(r2*(0.5+float64(r*(1.0/6))))
	mid := (1.0/24 + float64(r*(1.0/120))) + float64(r2*(1.0/720+float64(r*(1.0/5040))))
	high := (1.0/40320 + float64(r*(1.0/362880))) + float64(r2*(1.0/3628800+float64(r*(1.0/39916800))))
	p := low + float64(r4*(mid+float64(r4*high)))
	return math.Float64frombits(math.Float64bits(p) + uint64(int64(k))<<52)
}

// softmax writes the log-probabilities and probabilities of the action logits.
func softmax(logits []float32, logp, p *[3]float64) {
	a, b, c := float64(logits[0]), float64(logits[1]), float64(logits[2])
	top := max(a, b, c)
	a, b, c = a-top, b-top, c-top
	ea, eb, ec := exp(a), exp(b), exp(c)
	sum := ea + eb + ec
	log := math.Log(sum)
	logp[0], logp[1], logp[2] = a-log, b-log, c-log
	p[0], p[1], p[2] = ea/sum, eb/sum, ec/sum
}
