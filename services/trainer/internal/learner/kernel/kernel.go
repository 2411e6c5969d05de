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
	name       string
	gemm       func(p *product)
	sumRows    func(dst, x []float32, ldx, rows int)
	transpose  func(dst, src []float32, rows, columns int)
	add        func(dst, src []float32)
	sumSquares func(lanes *[16]float32, x []float32)
	adam       func(w, g, m, v []float32, p *AdamStep)
	gather     func(dst []float32, ldd int, src []float32, n int, rows []int32)
	noise      func(x []float32, ldx int, scale []float32, seeds []uint64)
	odds       func(logits []float32, out []Odds)
	loss       func(out, grad []float32, rows []Samples, w *LossWeights, sums *LossSums)
}

// Heads is the one width that is no multiple of Width: that of the last layer,
// three logits and a value.
const Heads = 4

// product is what a Gemm shall compute. It belongs to the caller's Workspace, as
// an argument would escape through the function value.
type product struct {
	c            []float32
	ldc          int
	a            []float32
	ars, aks     int
	b            []float32
	ldb, m, n, k int
	start        []float32
	lds          int
	gate         []float32
	finish       finish
}

// finish is what happens to an element before it is stored.
type finish int

const (
	plain finish = iota
	relu         // negative values become zero
	gated        // zero where gate, shaped like c, is not positive
)

// Product is a reusable place for the arguments of a Gemm.
type Product struct{ p product }

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
// for i < m, j < n, summed in the order of k. n is a multiple of Width, or Heads.
// The two strides of a serve X*W, dY*Wᵀ and Xᵀ*dY without packing.
func (s *Set) Gemm(w *Product, c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) {
	w.p = product{c: c, ldc: ldc, a: a, ars: ars, aks: aks, b: b, ldb: ldb, m: m, n: n, k: k, start: c, lds: ldc}
	s.run(&w.p)
}

// GemmFrom is Gemm onto start, n values for every row, instead of onto c: what c
// holds does not matter. k is at least 1.
func (s *Set) GemmFrom(w *Product, start, c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) {
	w.p = product{c: c, ldc: ldc, a: a, ars: ars, aks: aks, b: b, ldb: ldb, m: m, n: n, k: k, start: start[:n]}
	s.run(&w.p)
}

// GemmRelu is GemmFrom with negative results replaced by zero.
func (s *Set) GemmRelu(w *Product, start, c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int) {
	w.p = product{c: c, ldc: ldc, a: a, ars: ars, aks: aks, b: b, ldb: ldb, m: m, n: n, k: k, start: start[:n], finish: relu}
	s.run(&w.p)
}

// GemmGated is GemmFrom with zeros where y, the output of GemmRelu in the shape of
// c, is not positive.
func (s *Set) GemmGated(w *Product, start, c []float32, ldc int, a []float32, ars, aks int, b []float32, ldb, m, n, k int, y []float32) {
	w.p = product{c: c, ldc: ldc, a: a, ars: ars, aks: aks, b: b, ldb: ldb, m: m, n: n, k: k, start: start[:n], gate: y, finish: gated}
	s.run(&w.p)
}

// run panics on what the assembly would overrun.
func (s *Set) run(p *product) {
	if p.m <= 0 || p.n <= 0 || p.k <= 0 {
		return
	}
	if p.n%Width != 0 && (p.n != Heads || p.finish != plain) {
		panic(fmt.Sprintf("kernel: %d columns are not a multiple of %d", p.n, Width))
	}
	// The last element of each operand, so that no assembly reads past a slice.
	_ = p.c[(p.m-1)*p.ldc+p.n-1]
	_ = p.a[(p.m-1)*p.ars+(p.k-1)*p.aks]
	_ = p.b[(p.k-1)*p.ldb+p.n-1]
	if p.finish == gated {
		_ = p.gate[(p.m-1)*p.ldc+p.n-1]
	}
	s.gemm(p)
}

// SumRows adds rows of len(dst) values, which begin ldx elements apart in x, to
// dst, in their order. len(dst) is a multiple of Width.
func (s *Set) SumRows(dst, x []float32, ldx, rows int) {
	if check(len(dst), len(dst)) && rows > 0 {
		_ = x[(rows-1)*ldx+len(dst)-1]
		s.sumRows(dst, x, ldx, rows)
	}
}

// Transpose writes src, rows x columns, the other way round. rows is a multiple of
// 4, columns of 8.
func (s *Set) Transpose(dst, src []float32, rows, columns int) {
	if rows%4 != 0 || columns%8 != 0 || len(dst) != rows*columns || len(src) != len(dst) {
		panic(fmt.Sprintf("kernel: %d x %d of %d to %d elements", rows, columns, len(src), len(dst)))
	}
	if len(dst) > 0 {
		s.transpose(dst, src, rows, columns)
	}
}

// Gather copies the chosen rows of src, n values each and n apart, to rows that are
// ldd apart in dst. n is a multiple of Width.
func (s *Set) Gather(dst []float32, ldd int, src []float32, n int, rows []int32) {
	if !check(n, n) || len(rows) == 0 {
		return
	}
	_ = dst[(len(rows)-1)*ldd+n-1]
	for _, r := range rows {
		_ = src[int(r)*n : (int(r)+1)*n]
	}
	s.gather(dst, ldd, src, n, rows)
}

// Noise adds a nearly normal number of variance 4*(65536^2-1)/12 times scale[j]^2
// to each element j of len(seeds) rows that begin ldx elements apart. It is a
// function of the row's seed and of j. len(scale) is a multiple of Width.
func (s *Set) Noise(x []float32, ldx int, scale []float32, seeds []uint64) {
	if check(len(scale), len(scale)) && len(seeds) > 0 {
		_ = x[(len(seeds)-1)*ldx+len(scale)-1]
		s.noise(x, ldx, scale, seeds)
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
