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
	name: "avx512",
	gemm: func(c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int, start []float32, lds int) {
		j := 0
		for ; j+32 <= n; j += 32 {
			i := 0
			for ; i+8 <= m; i += 8 {
				tile8x32AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i+4 <= m; i += 4 {
				tile4x32AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i < m; i++ {
				tile1x32AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
		}
		if j < n {
			i := 0
			for ; i+8 <= m; i += 8 {
				tile8x16AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i+4 <= m; i += 4 {
				tile4x16AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i < m; i++ {
				tile1x16AVX512(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
		}
	},
	relu:         func(x []float32) { reluAVX512(&x[0], len(x)) },
	reluBackward: func(dy, y []float32) { reluBackwardAVX512(&dy[0], &y[0], len(dy)) },
	add:          func(dst, src []float32) { addAVX512(&dst[0], &src[0], len(dst)) },
	sumSquares:   func(lanes *[16]float32, x []float32) { sumSquaresAVX512(lanes, &x[0], len(x)) },
	adam: func(w, g, m, v []float32, p *AdamStep) {
		adamAVX512(&w[0], &g[0], &m[0], &v[0], len(w), p)
	},
}

var avx2 = &Set{
	name: "avx2",
	gemm: func(c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int, start []float32, lds int) {
		for j := 0; j < n; j += 16 {
			i := 0
			for ; i+6 <= m; i += 6 {
				tile6x16AVX2(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i+4 <= m; i += 4 {
				tile4x16AVX2(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
			for ; i < m; i++ {
				tile1x16AVX2(&c[i*ldc+j], ldc, &a[i*ars], ars, aks, &b[j], ldb, k, &start[i*lds+j], lds)
			}
		}
	},
	relu:         func(x []float32) { reluAVX2(&x[0], len(x)) },
	reluBackward: func(dy, y []float32) { reluBackwardAVX2(&dy[0], &y[0], len(dy)) },
	add:          func(dst, src []float32) { addAVX2(&dst[0], &src[0], len(dst)) },
	sumSquares:   func(lanes *[16]float32, x []float32) { sumSquaresAVX2(lanes, &x[0], len(x)) },
	adam: func(w, g, m, v []float32, p *AdamStep) {
		adamAVX2(&w[0], &g[0], &m[0], &v[0], len(w), p)
	},
}
