package kernel

import "math"

var portable = &Set{
	name:       "portable",
	gemm:       gemmPortable,
	sumRows:    sumRowsPortable,
	transpose:  transposePortable,
	add:        addPortable,
	sumSquares: sumSquaresPortable,
	adam:       adamPortable,
	gather:     gatherPortable,
	noise:      noisePortable,
	odds:       oddsPortable,
	loss:       lossPortable,
}

// fma returns x*y+z rounded once to float32, as the vector instruction does.
//
// The product of two float32 is exact in float64, so only the sum rounds twice:
// to 53 bits, then to 24. That differs from one rounding only when the 53-bit
// sum lies exactly between two float32 values and was itself rounded, or when
// the result is subnormal, where the midpoint sits at another bit.
func fma(x, y, z float32) float32 {
	p, c := float64(x)*float64(y), float64(z)
	s := p + c
	bits := math.Float64bits(s)
	if bits&0x1fffffff == 0x10000000 || bits<<1 < minNormal<<1 {
		return fmaSlow(p, c, s)
	}
	return float32(s)
}

// minNormal is the float64 pattern of the smallest normal float32. The shift by
// one in comparisons drops the sign.
const minNormal = uint64(1023-126) << 52

// fmaSlow rounds p+c to odd in float64, from which rounding to float32 is exact.
func fmaSlow(p, c, s float64) float32 {
	if s == 0 || math.IsInf(s, 0) || s != s {
		return float32(s)
	}
	// The error of the sum (Knuth's two-sum), exact in float64.
	t := s - p
	e := (p - (s - t)) + (c - t)
	bits := math.Float64bits(s)
	if e == 0 || bits&1 == 1 {
		return float32(s)
	}
	if (e > 0) == (s > 0) {
		bits++
	} else {
		bits--
	}
	return float32(math.Float64frombits(bits))
}

func gemmPortable(p *product) {
	for i := range p.m {
		row := p.c[i*p.ldc : i*p.ldc+p.n]
		copy(row, p.start[i*p.lds:i*p.lds+p.n])
		for k := range p.k {
			x := float64(p.a[i*p.ars+k*p.aks])
			br := p.b[k*p.ldb : k*p.ldb+p.n][:len(row)]
			// fma by hand: it is too large to be inlined, and the call doubles the time.
			for j, y := range br {
				prod, z := x*float64(y), float64(row[j])
				s := prod + z
				if bits := math.Float64bits(s); bits&0x1fffffff == 0x10000000 || bits<<1 < minNormal<<1 {
					row[j] = fmaSlow(prod, z, s)
				} else {
					row[j] = float32(s)
				}
			}
		}
		switch p.finish {
		case relu:
			for j, v := range row {
				if v < 0 {
					row[j] = 0
				}
			}
		case gated:
			for j, y := range p.gate[i*p.ldc : i*p.ldc+p.n] {
				if !(y > 0) {
					row[j] = 0
				}
			}
		}
	}
}

func sumRowsPortable(dst, x []float32, ldx, rows int) {
	for r := range rows {
		for j, v := range x[r*ldx : r*ldx+len(dst)] {
			dst[j] += v
		}
	}
}

func transposePortable(dst, src []float32, rows, columns int) {
	for c := range columns {
		for r := range rows {
			dst[c*rows+r] = src[r*columns+c]
		}
	}
}

func gatherPortable(dst []float32, ldd int, src []float32, n int, rows []int32) {
	for i, r := range rows {
		copy(dst[i*ldd:i*ldd+n], src[int(r)*n:])
	}
}

func noisePortable(x []float32, ldx int, scale []float32, seeds []uint64) {
	// A counter and a hash (two multiplications, by C. Wellons), so that lanes do not wait for each other.
	hash := func(x uint32) uint32 {
		x = (x ^ x>>16) * 0x7feb352d
		x = (x ^ x>>15) * 0x846ca68b
		return x ^ x>>16
	}
	for r, seed := range seeds {
		row := x[r*ldx : r*ldx+len(scale)]
		for j := range row {
			a, b := hash(uint32(seed)+uint32(j)*0x9e3779b9), hash(uint32(seed>>32)+uint32(j)*0x9e3779b9)
			sum := int32(a&0xffff) + int32(a>>16) + int32(b&0xffff) + int32(b>>16) - 131070
			row[j] += float32(float32(sum) * scale[j])
		}
	}
}

func addPortable(dst, src []float32) {
	for i, v := range src {
		dst[i] += v
	}
}

func sumSquaresPortable(lanes *[16]float32, x []float32) {
	*lanes = [16]float32{}
	for i, v := range x {
		lanes[i%16] = fma(v, v, lanes[i%16])
	}
}

// The conversions forbid the compiler to fuse a product with the sum after it,
// which it may do on other architectures.
func adamPortable(w, g, m, v []float32, p *AdamStep) {
	for i := range w {
		gi := float32(g[i] * p.GradientScale)
		mi := float32(p.Beta1*m[i]) + float32(p.OneLessBeta1*gi)
		vi := float32(p.Beta2*v[i]) + float32(p.OneLessBeta2*float32(gi*gi))
		m[i], v[i] = mi, vi
		root := float32(float32(math.Sqrt(float64(vi))) * p.RootScale)
		w[i] = float32(w[i]*p.Keep) - float32(p.Rate*mi)/(root+p.Epsilon)
	}
}
