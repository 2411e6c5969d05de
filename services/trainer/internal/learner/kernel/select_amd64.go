package kernel

import "golang.org/x/sys/cpu"

// available lists the sets that the processor and the operating system support.
func available() []*Set {
	var out []*Set
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512VL && cpu.X86.HasAVX512DQ {
		out = append(out, avx512)
	}
	if cpu.X86.HasAVX2 && cpu.X86.HasFMA {
		out = append(out, avx2)
	}
	return append(out, portable)
}

var avx512 = &Set{
	name:       "avx512",
	gemm:       gemmAVX512,
	sumRows:    func(dst, x []float32, ldx, rows int) { sumRowsAVX512(&dst[0], &x[0], ldx, rows, len(dst)) },
	transpose:  transposeVector,
	add:        func(dst, src []float32) { addAVX512(&dst[0], &src[0], len(dst)) },
	sumSquares: func(lanes *[16]float32, x []float32) { sumSquaresAVX512(lanes, &x[0], len(x)) },
	adam:       func(w, g, m, v []float32, p *AdamStep) { adamAVX512(&w[0], &g[0], &m[0], &v[0], len(w), p) },
	gather: func(dst []float32, ldd int, src []float32, n int, rows []int32) {
		gatherAVX512(&dst[0], ldd, &src[0], n, &rows[0], len(rows))
	},
	noise: func(x []float32, ldx int, scale []float32, seeds []uint64) {
		noiseAVX512(&x[0], ldx, len(scale), &scale[0], &seeds[0], len(seeds))
	},
	odds: func(logits []float32, out []Odds) { oddsAVX512(&logits[0], &out[0], len(out)) },
	loss: func(out, grad []float32, rows []Samples, w *LossWeights, sums *LossSums) {
		lossAVX512(&out[0], &grad[0], &rows[0], w, sums, len(rows))
	},
}

var avx2 = &Set{
	name:       "avx2",
	gemm:       gemmAVX2,
	sumRows:    func(dst, x []float32, ldx, rows int) { sumRowsAVX2(&dst[0], &x[0], ldx, rows, len(dst)) },
	transpose:  transposeVector,
	add:        func(dst, src []float32) { addAVX2(&dst[0], &src[0], len(dst)) },
	sumSquares: func(lanes *[16]float32, x []float32) { sumSquaresAVX2(lanes, &x[0], len(x)) },
	adam:       func(w, g, m, v []float32, p *AdamStep) { adamAVX2(&w[0], &g[0], &m[0], &v[0], len(w), p) },
	gather: func(dst []float32, ldd int, src []float32, n int, rows []int32) {
		gatherAVX2(&dst[0], ldd, &src[0], n, &rows[0], len(rows))
	},
	noise: func(x []float32, ldx int, scale []float32, seeds []uint64) {
		noiseAVX2(&x[0], ldx, len(scale), &scale[0], &seeds[0], len(seeds))
	},
	odds: func(logits []float32, out []Odds) { oddsAVX2(&logits[0], &out[0], len(out)) },
	loss: func(out, grad []float32, rows []Samples, w *LossWeights, sums *LossSums) {
		lossAVX2(&out[0], &grad[0], &rows[0], w, sums, len(rows))
	},
}

func transposeVector(dst, src []float32, rows, columns int) {
	transposeAVX2(&dst[0], &src[0], rows, columns)
}

// panelFunc is one of the generated panels.
type panelFunc func(c *float32, ldc int, a *float32, ars, aks int, b *float32, ldb, k int, start *float32, lds, groups int, gate *float32, finish int)

func gemmAVX512(p *product) {
	if p.n == Heads {
		gemmNarrow(p)
		return
	}
	tall, four := p.m/8, p.m%8/4
	j := 0
	for ; j+32 <= p.n; j += 32 {
		i := p.panel(panel8x32AVX512, 0, j, 8, tall)
		i = p.panel(panel4x32AVX512, i, j, 4, four)
		p.panel(panel1x32AVX512, i, j, 1, p.m-i)
	}
	if j < p.n {
		i := p.panel(panel8x16AVX512, 0, j, 8, tall)
		i = p.panel(panel4x16AVX512, i, j, 4, four)
		p.panel(panel1x16AVX512, i, j, 1, p.m-i)
	}
}

func gemmAVX2(p *product) {
	if p.n == Heads {
		gemmNarrow(p)
		return
	}
	// Panels of one row wait for themselves: 128 rows are 20 of six and 2 of four.
	six, four := p.m/6, p.m%6/4
	if rest := p.m % 6; rest == 2 && six > 0 {
		six, four = six-1, 2
	}
	for j := 0; j < p.n; j += 16 {
		i := p.panel(panel6x16AVX2, 0, j, 6, six)
		i = p.panel(panel4x16AVX2, i, j, 4, four)
		p.panel(panel1x16AVX2, i, j, 1, p.m-i)
	}
}

func gemmNarrow(p *product) {
	i := p.panel(panel8x4FMA, 0, 0, 8, p.m/8)
	i = p.panel(panel4x4FMA, i, 0, 4, (p.m-i)/4)
	p.panel(panel1x4FMA, i, 0, 1, p.m-i)
}

// panel computes groups tiles of height rows from row i and column j, and returns
// the row after them.
func (p *product) panel(f panelFunc, i, j, height, groups int) int {
	if groups <= 0 {
		return i
	}
	var gate *float32
	if p.finish == gated {
		gate = &p.gate[i*p.ldc+j]
	}
	f(&p.c[i*p.ldc+j], p.ldc, &p.a[i*p.ars], p.ars, p.aks, &p.b[j], p.ldb, p.k, &p.start[i*p.lds+j], p.lds, groups, gate, int(p.finish))
	return i + groups*height
}
