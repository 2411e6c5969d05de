// Package kernel holds the float32 inner loops of the learner in three forms:
// AVX-512, AVX2 with FMA, and portable Go. All three give the same bits: every
// output element is one chain of fused multiply-adds in the same order, and the
// portable form rounds its fused multiply-add correctly. A run may therefore
// move between hosts of different vector width and still be reproduced.
package kernel

//go:generate go run ./gen

import (
	"fmt"
	"strings"
)

// Width is the padding rule: row lengths and vector lengths are multiples of it.
const Width = 16

// Pad rounds n up to a multiple of Width.
func Pad(n int) int { return (n + Width - 1) &^ (Width - 1) }

// AdamStep has the coefficients of one Adam step, in the order in which the
// assembly reads them.
type AdamStep struct {
	GradientScale float32 // 1 over rows, times the clipping factor
	Beta1         float32
	OneLessBeta1  float32
	Beta2         float32
	OneLessBeta2  float32
	RootScale     float32 // 1/sqrt(1-beta2^t)
	Epsilon       float32
	Rate          float32 // learning rate / (1-beta1^t)
	Keep          float32 // 1 less the weight decay of the step
}

// Set is one form of the kernels. Sets are immutable and shared.
type Set struct {
	name         string
	gemm         func(c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int, start []float32, lds int)
	relu         func(x []float32)
	reluBackward func(dy, y []float32)
	add          func(dst, src []float32)
	sumSquares   func(lanes *[16]float32, x []float32)
	adam         func(w, g, m, v []float32, p *AdamStep)
}

// sets lists the forms that this machine can run, the fastest first.
var sets = available()

// Best returns the fastest set of this machine.
func Best() *Set { return sets[0] }

// Named returns the set of that name: "avx512", "avx2" or "portable"; "" is Best.
func Named(name string) (*Set, error) {
	if name == "" {
		return Best(), nil
	}
	for _, s := range sets {
		if s.name == name {
			return s, nil
		}
	}
	return nil, fmt.Errorf("no kernel %q on this machine: it has %s", name, strings.Join(Names(), ", "))
}

// Names lists the sets of this machine, the fastest first.
func Names() []string {
	out := make([]string, len(sets))
	for i, s := range sets {
		out[i] = s.name
	}
	return out
}

// Name returns the name that is recorded with a run.
func (s *Set) Name() string { return s.name }

// Gemm adds a product to c: c[i*ldc+j] += sum over k of a[i*ars+k*aks]*b[k*ldb+j]
// for i < m, j < n, summed in the order of k. n is a multiple of Width. The two
// strides of a serve X*W, dY*Wᵀ and Xᵀ*dY without packing.
func (s *Set) Gemm(c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) {
	if bounds(c, ldc, a, ars, aks, b, ldb, m, n, k) {
		s.gemm(c, ldc, a, ars, aks, b, ldb, m, n, k, c, ldc)
	}
}

// GemmFrom is Gemm onto start, n values for every row, instead of onto c: what c
// holds does not matter. k is at least 1.
func (s *Set) GemmFrom(start, c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) {
	if bounds(c, ldc, a, ars, aks, b, ldb, m, n, k) {
		_ = start[n-1]
		s.gemm(c, ldc, a, ars, aks, b, ldb, m, n, k, start, 0)
	}
}

// bounds reports whether there is anything to do and panics on what the assembly
// would overrun.
func bounds(c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) bool {
	if m <= 0 || n <= 0 || k <= 0 {
		return false
	}
	if n%Width != 0 {
		panic(fmt.Sprintf("kernel: %d columns are not a multiple of %d", n, Width))
	}
	// The last element of each operand, so that no assembly reads past a slice.
	_ = c[(m-1)*ldc+n-1]
	_ = a[(m-1)*ars+(k-1)*aks]
	_ = b[(k-1)*ldb+n-1]
	return true
}

// Relu replaces negative values by zero, in place. len(x) is a multiple of Width.
func (s *Set) Relu(x []float32) {
	if check(len(x), len(x)) {
		s.relu(x)
	}
}

// ReluBackward zeroes dy where y, the output of Relu, is not positive.
func (s *Set) ReluBackward(dy, y []float32) {
	if check(len(dy), len(y)) {
		s.reluBackward(dy, y)
	}
}

// Add adds src to dst.
func (s *Set) Add(dst, src []float32) {
	if check(len(dst), len(src)) {
		s.add(dst, src)
	}
}

// SumSquares returns the sum of squares of x, in a fixed order of 16 lanes.
func (s *Set) SumSquares(x []float32, lanes *[16]float32) float64 {
	if !check(len(x), len(x)) {
		return 0
	}
	s.sumSquares(lanes, x)
	var sum float64
	for _, v := range lanes {
		sum += float64(v)
	}
	return sum
}

// Adam updates w, m and v by the gradient g.
func (s *Set) Adam(w, g, m, v []float32, p *AdamStep) {
	if check(len(w), len(g)) && check(len(m), len(w)) && check(len(v), len(w)) {
		s.adam(w, g, m, v, p)
	}
}

// check reports whether there is anything to do and panics on a length that the
// assembly would overrun.
func check(n, other int) bool {
	if n != other || n%Width != 0 {
		panic(fmt.Sprintf("kernel: lengths %d and %d: want equal multiples of %d", n, other, Width))
	}
	return n > 0
}
