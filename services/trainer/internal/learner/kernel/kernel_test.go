package kernel

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
)

func random(rng *rand.Rand, n int) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64())
	}
	return out
}

func equalBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: element %d is %v (%08x), want %v (%08x)", what, i,
				got[i], math.Float32bits(got[i]), want[i], math.Float32bits(want[i]))
		}
	}
}

// TestFMARoundsOnce compares the scalar fused multiply-add with exact arithmetic
// on hard cases: cancellation, ties, subnormals.
func TestFMARoundsOnce(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(1, 2))
	exact := func(x, y, z float32) float32 {
		s := new(big.Float).SetPrec(400).SetFloat64(float64(x) * float64(y))
		s.Add(s, new(big.Float).SetFloat64(float64(z)))
		f, _ := s.Float32()
		return f
	}
	try := func(x, y, z float32) {
		if got, want := fma(x, y, z), exact(x, y, z); got != want {
			t.Fatalf("fma(%x, %x, %x) = %x, want %x", x, y, z, got, want)
		}
	}
	for range 200_000 {
		x, y := float32(rng.NormFloat64()), float32(rng.NormFloat64())
		try(x, y, float32(rng.NormFloat64()))
		try(x, y, -x*y)
		// Few significant bits make exact midpoints common.
		a := float32(rng.IntN(1<<13)) * float32(math.Ldexp(1, rng.IntN(40)-20))
		b := float32(rng.IntN(1<<13)) * float32(math.Ldexp(1, rng.IntN(40)-20))
		c := float32(rng.IntN(1<<24)) * float32(math.Ldexp(1, rng.IntN(80)-40))
		try(a, b, c)
		try(a, b, -c)
		// Subnormal results.
		try(a*0x1p-70, b*0x1p-66, c*0x1p-130)
		try(a*0x1p-70, b*0x1p-66, -c*0x1p-130)
	}
}

// TestGemmAgainstFloat64 checks the product itself on the three stride patterns.
func TestGemmAgainstFloat64(t *testing.T) {
	t.Parallel()
	rng := rand.New(rand.NewPCG(3, 4))
	const m, n, k = 13, 48, 29
	a, b, c0 := random(rng, m*k), random(rng, k*n), random(rng, m*n)
	for _, name := range Names() {
		s, err := Named(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, transposed := range []bool{false, true} {
			ars, aks := k, 1
			if transposed {
				ars, aks = 1, m
			}
			c := append([]float32(nil), c0...)
			s.Gemm(new(Product), c, n, a, ars, aks, b, n, m, n, k)
			for i := range m {
				for j := range n {
					want := float64(c0[i*n+j])
					for p := range k {
						want += float64(a[i*ars+p*aks]) * float64(b[p*n+j])
					}
					if got := float64(c[i*n+j]); math.Abs(got-want) > 1e-4 {
						t.Fatalf("%s: c[%d,%d] = %v, want %v", name, i, j, got, want)
					}
				}
			}
		}
	}
}

// TestSetsGiveTheSameBits is the promise of the package, over all tile shapes.
func TestSetsGiveTheSameBits(t *testing.T) {
	t.Parallel()
	if len(sets) == 1 {
		t.Skip("SKIPPED: this machine has only the portable kernels, nothing to compare")
	}
	rng := rand.New(rand.NewPCG(5, 6))
	w := new(Product)
	for _, n := range []int{Heads, 16, 32, 48, 128} {
		for _, m := range []int{1, 3, 4, 5, 8, 11, 14, 31, 32} {
			for _, k := range []int{1, 2, 7, 64} {
				// Rows of c, a and b are further apart than they are long.
				ldc, lda, ldb := n+5, k+3, n+1
				a, b, c0, y := random(rng, m*lda), random(rng, k*ldb), random(rng, m*ldc), random(rng, m*ldc)
				y[0] = float32(math.NaN())
				results := func(s *Set) [][]float32 {
					all := make([][]float32, 4)
					for i := range all {
						all[i] = append([]float32(nil), c0...)
					}
					s.Gemm(w, all[0], ldc, a, lda, 1, b, ldb, m, n, k)
					s.GemmFrom(w, c0, all[1], ldc, a, lda, 1, b, ldb, m, n, k)
					if n != Heads {
						s.GemmRelu(w, c0, all[2], ldc, a, lda, 1, b, ldb, m, n, k)
						s.GemmGated(w, c0, all[3], ldc, a, lda, 1, b, ldb, m, n, k, y)
					}
					return all
				}
				want := results(portable)
				for i, v := range want[1] {
					if j := i % ldc; j < n && n != Heads && (want[2][i] != max(v, 0) || want[3][i] != map[bool]float32{true: v}[y[i] > 0]) {
						t.Fatalf("the portable finish of %v by %v gives %v and %v", v, y[i], want[2][i], want[3][i])
					}
				}
				for _, s := range sets[:len(sets)-1] {
					for i, got := range results(s) {
						equalBits(t, fmt.Sprintf("%s gemm %d, %dx%dx%d", s.name, i, m, n, k), got, want[i])
					}
				}
			}
		}
	}
	const n = 16 * 37
	x, y := random(rng, n), random(rng, n)
	x[0], x[1], x[2] = float32(math.NaN()), float32(math.Copysign(0, -1)), float32(math.Inf(-1))
	y[3], y[4] = float32(math.NaN()), 0
	seeds := []uint64{1, math.MaxUint64, 0x9e3779b97f4a7c15}
	apply := func(s *Set) []float32 {
		sum := append([]float32(nil), x...)
		s.Add(sum, y)
		w, g, mo, v := random(rand.New(rand.NewPCG(7, 8)), n), append([]float32(nil), y[16:]...), make([]float32, n), make([]float32, n)
		g = append(g, x[16:32]...)
		g[0] = 0.25
		var lanes [16]float32
		norm := s.SumSquares(g, &lanes)
		for t := 1; t < 4; t++ {
			s.Adam(w, g, mo, v, &AdamStep{GradientScale: 0.37, Beta1: 0.9, OneLessBeta1: 0.1, Beta2: 0.999,
				OneLessBeta2: 0.001, RootScale: 3, Epsilon: 1e-5, Rate: 0.01 * float32(t), Keep: 0.999})
		}
		columns := append([]float32(nil), y[32:32+80]...)
		s.SumRows(columns, x[16:], 81, 5)
		rows := make([]float32, 12*33)
		s.Gather(rows, 33, x, 32, []int32{3, 0, 17, 17, 2, 9, 1, 4, 5, 6, 8, 16})
		noisy := append([]float32(nil), x...)
		s.Noise(noisy, 50, y[16:64], seeds)
		turned := make([]float32, 12*24)
		s.Transpose(turned, y[5:5+12*24], 12, 24)
		out := append(append(sum, turned...), w...)
		out = append(append(append(append(append(append(out, mo...), v...), lanes[:]...), columns...), rows...), noisy...)
		return append(out, float32(norm))
	}
	want := apply(portable)
	for _, s := range sets[:len(sets)-1] {
		equalBits(t, s.name+" elementwise", apply(s), want)
	}
}

func TestLengthsAreChecked(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]func(){
		"short":    func() { Best().Add(make([]float32, 16), make([]float32, 32)) },
		"unpadded": func() { Best().Add(make([]float32, 17), make([]float32, 17)) },
		"gather":   func() { Best().Gather(make([]float32, 16), 16, make([]float32, 40), 16, []int32{2}) },
		"gate": func() {
			Best().GemmGated(new(Product), make([]float32, 16), make([]float32, 16), 16, make([]float32, 1), 1, 1, make([]float32, 16), 16, 1, 16, 1, nil)
		},
		"columns": func() {
			Best().Gemm(new(Product), make([]float32, 99), 9, make([]float32, 99), 1, 1, make([]float32, 99), 9, 1, 9, 1)
		},
		"past b": func() {
			Best().Gemm(new(Product), make([]float32, 16), 16, make([]float32, 4), 4, 1, make([]float32, 60), 16, 1, 16, 4)
		},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			f()
		}()
	}
	if _, err := Named("sse9"); err == nil {
		t.Error("an unknown kernel was found")
	}
}

func BenchmarkGemm128(b *testing.B) {
	rng := rand.New(rand.NewPCG(9, 9))
	x, w, c := random(rng, 128*128), random(rng, 128*128), random(rng, 128*128)
	for _, name := range Names() {
		s, err := Named(name)
		if err != nil {
			b.Fatal(err)
		}
		for _, shape := range []struct {
			name     string
			ars, aks int
		}{{"XW", 128, 1}, {"XtY", 1, 128}} {
			b.Run(name+"/"+shape.name, func(b *testing.B) {
				for b.Loop() {
					s.Gemm(new(Product), c, 128, x, shape.ars, shape.aks, w, 128, 128, 128, 128)
				}
				b.ReportMetric(2*128*128*128*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
			})
		}
	}
}
