package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// A program is straight-line vector code over virtual registers, made real by
// giving each the lowest register that is free from its first to its last use.
type program struct {
	isa isa
	ops []op
	ids int
}

// value is a virtual register, or text that is an operand as it stands (memory).
type value struct {
	id  int
	mem string
}

type op struct {
	format string // %d registers are written as {0} (the result) and {1}, {2}, ... (the sources)
	out    value
	in     []value
}

func (p *program) emit(format string, in ...value) value {
	p.ids++
	v := value{id: p.ids}
	p.ops = append(p.ops, op{format, v, in})
	return v
}

// effect is an operation without a result.
func (p *program) effect(format string, in ...value) {
	p.ops = append(p.ops, op{format: format, in: in})
}

func mem(format string, args ...any) value { return value{mem: fmt.Sprintf(format, args...)} }

// The second source of a two-operand instruction may be memory; of max and min it
// is the one that passes when it is a NaN.
func (p *program) load(a value) value   { return p.emit("VMOVUPS {1}, {0}", a) }
func (p *program) add(a, b value) value { return p.emit("VADDPS {2}, {1}, {0}", a, b) }
func (p *program) sub(a, b value) value { return p.emit("VSUBPS {2}, {1}, {0}", a, b) }
func (p *program) mul(a, b value) value { return p.emit("VMULPS {2}, {1}, {0}", a, b) }
func (p *program) div(a, b value) value { return p.emit("VDIVPS {2}, {1}, {0}", a, b) }
func (p *program) max(a, b value) value { return p.emit("VMAXPS {2}, {1}, {0}", a, b) }
func (p *program) min(a, b value) value { return p.emit("VMINPS {2}, {1}, {0}", a, b) }
func (p *program) and(a, b value) value { return p.emit("VANDPS {2}, {1}, {0}", a, b) }
func (p *program) or(a, b value) value  { return p.emit("VORPS {2}, {1}, {0}", a, b) }

// fma is a*b+c. The result starts as a copy of a.
func (p *program) fma(a, b, c value) value {
	return p.emit("VMOVAPS {1}, {0}\n\tVFMADD213PS {3}, {2}, {0}", a, b, c)
}

// compare is all ones where a stands to b as the predicate says.
func (p *program) compare(predicate int, a, b value) value {
	if p.isa.lanes == 16 {
		return p.emit(fmt.Sprintf("VCMPPS $%d, {2}, {1}, K1\n\tVPMOVM2D K1, {0}", predicate), a, b)
	}
	return p.emit(fmt.Sprintf("VCMPPS $%d, {2}, {1}, {0}", predicate), a, b)
}

const (
	equal     = 0
	lessEqual = 2
	greater   = 14
)

// write gives registers and prints. The result of a single instruction may take the
// register of a source whose last use it is.
func (p *program) write(w *writer) {
	p.dropUnused()
	last := map[int]int{}
	for i, o := range p.ops {
		for _, v := range o.in {
			if v.mem == "" {
				last[v.id] = i
			}
		}
	}
	const registers = 16 // the upper sixteen of AVX-512 are not needed
	var free []int
	for i := range registers {
		free = append(free, i)
	}
	at := map[int]int{}
	take := func() int {
		if len(free) == 0 {
			panic("out of registers")
		}
		r := slices.Min(free)
		free = slices.DeleteFunc(free, func(x int) bool { return x == r })
		return r
	}
	for i, o := range p.ops {
		text := o.format
		for k, v := range o.in {
			name := v.mem
			if name == "" {
				name = fmt.Sprintf("%s%d", p.isa.reg, at[v.id])
			}
			text = replace(text, k+1, name)
		}
		single := !strings.Contains(text, "\n")
		give := func(from []value) {
			for _, v := range from {
				if r, ok := at[v.id]; v.mem == "" && ok && last[v.id] == i {
					free = append(free, r)
					delete(at, v.id)
				}
			}
		}
		if single {
			give(o.in)
		}
		if o.out.id != 0 {
			at[o.out.id] = take()
			text = replace(text, 0, fmt.Sprintf("%s%d", p.isa.reg, at[o.out.id]))
		}
		w.a("\t%s", text)
		give(o.in)
	}
}

// dropUnused leaves out what only led to results that nobody takes.
func (p *program) dropUnused() {
	used := map[int]bool{}
	for i := len(p.ops) - 1; i >= 0; i-- {
		o := p.ops[i]
		if o.out.id != 0 && !used[o.out.id] {
			p.ops = slices.Delete(p.ops, i, i+1)
			continue
		}
		for _, v := range o.in {
			used[v.id] = true
		}
	}
}

func replace(text string, k int, name string) string {
	key := fmt.Sprintf("{%d}", k)
	for i := 0; i+len(key) <= len(text); i++ {
		if text[i:i+len(key)] == key {
			text = text[:i] + name + text[i+len(key):]
		}
	}
	return text
}

// table holds the constants, sixteen copies each, so that they can be operands.
var table []float32

func constant(x float64) value {
	f := float32(x)
	i := slices.Index(table, f)
	if i < 0 {
		i = len(table)
		table = append(table, f)
	}
	return mem("constants<>+%d(SB)", i*64)
}

func (w *writer) constants() {
	for i, f := range table {
		for k := range 16 {
			w.a("DATA constants<>+%d(SB)/4, $%#08x", i*64+k*4, math.Float32bits(f))
		}
	}
	w.a("GLOBL constants<>(SB), RODATA|NOPTR, $%d", len(table)*64)
}

// exp is e^x for x of at most 88 and from -87 up; below it is that of -87. What
// makes it NaN for a NaN is its caller's: see portable.go, which has the same steps.
func (p *program) exp(x value) value {
	x = p.max(p.load(constant(-87)), x)
	x = p.min(p.load(constant(88)), x)
	t := p.fma(x, p.load(constant(math.Log2E)), constant(12582912))
	n := p.sub(t, constant(12582912))
	r := p.fma(n, p.load(constant(-0.693359375)), x)
	r = p.fma(n, p.load(constant(2.12194440e-4)), r)
	q := p.fma(r, p.load(constant(1.0/5040)), constant(1.0/720))
	for _, c := range []float64{1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1, 1} {
		q = p.fma(q, r, constant(c))
	}
	return p.emit("VPADDD {2}, {1}, {0}", q, p.emit("VPSLLD $23, {1}, {0}", t))
}

// logits loads half a group, or the whole, of rows of four and turns them: one
// register per column. Row 4q+i of a group comes to lane 4i+q.
func (p *program) logits(offset int) [4]value {
	var row [4]value
	for q := range row {
		row[q] = p.load(mem("%d(SI)", q*64+offset))
	}
	return p.turn(row)
}

// turn transposes the four by four blocks of four registers.
func (p *program) turn(row [4]value) [4]value {
	low01, high01 := p.emit("VUNPCKLPS {2}, {1}, {0}", row[0], row[1]), p.emit("VUNPCKHPS {2}, {1}, {0}", row[0], row[1])
	low23, high23 := p.emit("VUNPCKLPS {2}, {1}, {0}", row[2], row[3]), p.emit("VUNPCKHPS {2}, {1}, {0}", row[2], row[3])
	return [4]value{
		p.emit("VUNPCKLPD {2}, {1}, {0}", low01, low23), p.emit("VUNPCKHPD {2}, {1}, {0}", low01, low23),
		p.emit("VUNPCKLPD {2}, {1}, {0}", high01, high23), p.emit("VUNPCKHPD {2}, {1}, {0}", high01, high23),
	}
}

// transpose turns four rows of eight columns at a time; both sets use it.
func (w *writer) transpose(s isa) {
	w.function("transpose"+s.suffix, "dst, src *float32, rows, columns int",
		"writes src, rows x columns, the other way round to dst. rows is a multiple of 4, columns of 8.", 32)
	w.a("\tMOVQ dst+0(FP), DI\n\tMOVQ src+8(FP), R8\n\tMOVQ columns+24(FP), R9\n\tMOVQ rows+16(FP), R10\n\tSHLQ $2, R10\n\tLEAQ (R10)(R10*2), R11")
	w.a("rows:\n\tMOVQ DI, AX\n\tMOVQ R8, SI\n\tMOVQ R9, CX\ncolumns:")
	p := &program{isa: s}
	for j, v := range p.turn([4]value{p.load(mem("(SI)")), p.load(mem("(SI)(R9*4)")), p.load(mem("(SI)(R9*8)")), p.load(mem("(BX)"))}) {
		to := []string{"(AX)", "(AX)(R10*1)", "(AX)(R10*2)", "(AX)(R11*1)"}[j]
		high := []string{"(DX)", "(DX)(R10*1)", "(DX)(R10*2)", "(DX)(R11*1)"}[j]
		p.effect("VEXTRACTF128 $0, {1}, {2}", v, mem("%s", to))
		p.effect("VEXTRACTF128 $1, {1}, {2}", v, mem("%s", high))
	}
	w.a("\tLEAQ (SI)(R9*8), BX\n\tLEAQ (BX)(R9*4), BX\n\tLEAQ (AX)(R10*4), DX")
	p.write(w)
	w.a("\tADDQ $32, SI\n\tLEAQ (DX)(R10*4), AX\n\tSUBQ $8, CX\n\tJNZ columns")
	w.a("\tADDQ $16, DI\n\tMOVQ R9, AX\n\tSHLQ $4, AX\n\tADDQ AX, R8\n\tSUBQ $4, rows+16(FP)\n\tJNZ rows\n\tVZEROUPPER\n\tRET\n")
}

// softmax returns log-probabilities and probabilities of three logits.
func (p *program) softmax(x [4]value) (logp, prob [3]value) {
	top := p.max(p.max(x[0], x[1]), x[2])
	var e [3]value
	for j := range 3 {
		logp[j] = p.sub(x[j], top)
		e[j] = p.exp(logp[j])
	}
	sum := p.add(p.add(e[0], e[1]), e[2])
	// A NaN among the logits must not get lost in exp.
	all := p.add(p.add(logp[0], logp[1]), logp[2])
	sum = p.fma(all, p.load(constant(0)), sum)
	one := p.load(constant(1))
	inverse := p.div(one, sum)
	// The logarithm of 1 to 3, from the middle: ln c + 2 artanh((s-c)/(s+c)).
	c := float64(float32(math.Sqrt(3)))
	z := p.div(p.sub(sum, constant(c)), p.add(sum, constant(c)))
	z2 := p.mul(z, z)
	q := p.fma(z2, p.load(constant(2.0/11)), constant(2.0/9))
	for _, k := range []float64{2.0 / 7, 2.0 / 5, 2.0 / 3, 2} {
		q = p.fma(q, z2, constant(k))
	}
	log := p.fma(q, z, constant(math.Log(c)))
	for j := range 3 {
		logp[j] = p.sub(logp[j], log)
		prob[j] = p.mul(e[j], inverse)
	}
	return logp, prob
}

func (w *writer) odds(s isa) {
	w.function("odds"+s.suffix, "logits *float32, out *Odds, groups int", "computes log-probabilities and thresholds of sixteen rows at a time.", 24)
	w.a("\tMOVQ logits+0(FP), SI\n\tMOVQ out+8(FP), DI\n\tMOVQ groups+16(FP), CX\nloop:")
	for o := 0; o < 64; o += s.lanes * 4 {
		p := &program{isa: s}
		x := p.logits(o)
		p.effect("VMOVUPS {1}, {2}", x[3], mem("%d(DI)", 320+o))
		logp, prob := p.softmax(x)
		for j := range 3 {
			p.effect("VMOVUPS {1}, {2}", logp[j], mem("%d(DI)", j*64+o))
		}
		p.effect("VMOVUPS {1}, {2}", prob[0], mem("%d(DI)", 192+o))
		p.effect("VMOVUPS {1}, {2}", p.add(prob[0], prob[1]), mem("%d(DI)", 256+o))
		p.write(w)
	}
	w.a("\tADDQ $256, SI\n\tADDQ $384, DI\n\tDECQ CX\n\tJNZ loop\n\tVZEROUPPER\n\tRET\n")
}

// loss has the steps of lossPortable.
func (w *writer) loss(s isa) {
	w.function("loss"+s.suffix, "out, grad *float32, rows *Samples, w *LossWeights, sums *LossSums, groups int",
		"adds up the losses of sixteen rows at a time and writes the gradients of their outputs.", 48)
	w.a("\tMOVQ out+0(FP), SI\n\tMOVQ grad+8(FP), DI\n\tMOVQ rows+16(FP), R8\n\tMOVQ w+24(FP), R9\n\tMOVQ sums+32(FP), R10\n\tMOVQ groups+40(FP), CX\nloop:")
	for o := 0; o < 64; o += s.lanes * 4 {
		field := func(base string, i int) value { return mem("%d(%s)", i*64+o, base) }
		const action, old, advantage, target, live = 0, 1, 2, 3, 4
		low, high, clip, value_, entropy_ := field("R9", 0), field("R9", 1), field("R9", 2), field("R9", 3), field("R9", 4)
		p := &program{isa: s}
		x := p.logits(o)
		add := func(i int, v value) {
			v = p.and(v, field("R8", live))
			p.effect("VMOVUPS {1}, {2}", p.add(v, field("R10", i)), field("R10", i))
		}
		// The value first: it frees a register.
		delta := p.sub(x[3], field("R8", target))
		add(1, p.mul(p.mul(delta, constant(0.5)), delta))
		gradient := [4]value{3: p.mul(delta, value_)}
		logp, prob := p.softmax(x)
		entropy := p.mul(prob[0], logp[0])
		entropy = p.add(entropy, p.mul(prob[1], logp[1]))
		entropy = p.add(entropy, p.mul(prob[2], logp[2]))
		entropy = p.sub(p.load(constant(0)), entropy)
		add(2, entropy)
		chosen := func(j int) value { return p.compare(equal, p.load(constant(float64(j))), field("R8", action)) }
		diff := p.or(p.or(p.and(chosen(0), logp[0]), p.and(chosen(1), logp[1])), p.and(chosen(2), logp[2]))
		diff = p.sub(diff, field("R8", old))
		// The entropy's part of the gradient now, so that logp is done with.
		for j := range 3 {
			gradient[j] = p.mul(p.mul(prob[j], entropy_), p.add(logp[j], entropy))
		}
		ratio := p.fma(diff, p.load(constant(0)), p.exp(diff))
		less1 := p.sub(ratio, constant(1))
		add(3, p.sub(less1, diff))
		far := p.compare(greater, p.and(less1, mem("constants<>+%d(SB)", absoluteAt())), clip)
		add(4, p.and(far, constant(1)))
		free := p.mul(ratio, field("R8", advantage))
		bounded := p.max(p.load(low), p.min(p.load(high), ratio))
		bounded = p.mul(bounded, field("R8", advantage))
		add(0, p.sub(p.load(constant(0)), p.min(bounded, free)))
		g := p.and(p.compare(lessEqual, free, bounded), p.sub(p.load(constant(0)), free))
		for j := range 3 {
			onehot := p.and(chosen(j), constant(1))
			gradient[j] = p.add(p.mul(g, p.sub(onehot, prob[j])), gradient[j])
		}
		for q, row := range p.turn(gradient) {
			p.effect("VMOVUPS {1}, {2}", row, mem("%d(DI)", q*64+o))
		}
		p.write(w)
	}
	w.a("\tADDQ $256, SI\n\tADDQ $256, DI\n\tADDQ $320, R8\n\tDECQ CX\n\tJNZ loop\n\tVZEROUPPER\n\tRET\n")
}

// absoluteAt is the place of the mask that drops a sign: a NaN as a float, so that
// it is not looked up by value.
func absoluteAt() int {
	mask := math.Float32frombits(0x7fffffff)
	for i, f := range table {
		if math.Float32bits(f) == math.Float32bits(mask) {
			return i * 64
		}
	}
	table = append(table, mask)
	return (len(table) - 1) * 64
}

// noise hashes a counter per element twice; four 16-bit uniforms make one
// near-normal number. See noisePortable.
func (w *writer) noise(s isa) {
	w.function("noise"+s.suffix, "x *float32, ldx, n int, scale *float32, seeds *uint64, rows int", "adds noise to rows of n values. n is a positive multiple of 16.", 48)
	w.a("\tMOVQ x+0(FP), DI\n\tMOVQ ldx+8(FP), R9\n\tSHLQ $2, R9\n\tMOVQ seeds+32(FP), R8\n\tMOVQ rows+40(FP), CX")
	r := func(i int) string { return fmt.Sprintf("%s%d", s.reg, i) }
	for i, c := range []uint32{hash1, hash2, 0xffff, uint32(s.lanes) * golden} {
		w.a("\tMOVL $%#x, AX\n\tVMOVD AX, X%d\n\tVPBROADCASTD X%d, %s", c, 8+i, 8+i, r(8+i))
	}
	w.a("\tMOVL $%#x, AX\n\tVMOVD AX, X12\n\tVPBROADCASTD X12, %s", 131070, r(12))
	w.a("row:\n\tVPBROADCASTD (R8), %s\n\tVPBROADCASTD 4(R8), %s", r(0), r(1))
	w.a("\tVPADDD counters<>(SB), %s, %s\n\tVPADDD counters<>(SB), %s, %s", r(0), r(0), r(1), r(1))
	w.a("\tMOVQ n+16(FP), DX\n\tMOVQ scale+24(FP), SI\n\tXORQ BX, BX\nloop:")
	for k := range 2 {
		h, t := r(2+k), r(4+k)
		w.a("\tVPSRLD $16, %s, %s", r(k), t)
		w.xor(s, r(k), t, h)
		w.a("\tVPMULLD %s, %s, %s\n\tVPSRLD $15, %s, %s", r(8), h, h, h, t)
		w.xor(s, h, t, h)
		w.a("\tVPMULLD %s, %s, %s\n\tVPSRLD $16, %s, %s", r(9), h, h, h, t)
		w.xor(s, h, t, h)
		w.a("\tVPADDD %s, %s, %s", r(11), r(k), r(k))
		w.a("\tVPSRLD $16, %s, %s", h, t)
		if s.lanes == 16 {
			w.a("\tVPANDD %s, %s, %s", r(10), h, h)
		} else {
			w.a("\tVPAND %s, %s, %s", r(10), h, h)
		}
		w.a("\tVPADDD %s, %s, %s", t, h, h)
	}
	w.a("\tVPADDD %s, %s, %s\n\tVPSUBD %s, %s, %s", r(3), r(2), r(2), r(12), r(2), r(2))
	w.a("\tVCVTDQ2PS %s, %s\n\tVMULPS (SI)(BX*1), %s, %s\n\tVADDPS (DI)(BX*1), %s, %s\n\tVMOVUPS %s, (DI)(BX*1)", r(2), r(2), r(2), r(2), r(2), r(2), r(2))
	w.a("\tADDQ $%d, BX\n\tSUBQ $%d, DX\n\tJNZ loop\n\tADDQ R9, DI\n\tADDQ $8, R8\n\tDECQ CX\n\tJNZ row\n\tVZEROUPPER\n\tRET\n", s.lanes*4, s.lanes)
	if s.lanes == 16 {
		for k := range uint32(16) {
			w.a("DATA counters<>+%d(SB)/4, $%#08x", k*4, k*golden)
		}
		w.a("GLOBL counters<>(SB), RODATA|NOPTR, $64\n")
	}
}

// The constants of noisePortable.
const (
	golden uint32 = 0x9e3779b9
	hash1  uint32 = 0x7feb352d
	hash2  uint32 = 0x846ca68b
)

func (w *writer) xor(s isa, a, b, out string) {
	name := "VPXOR"
	if s.lanes == 16 {
		name = "VPXORD"
	}
	w.a("\t%s %s, %s, %s", name, b, a, out)
}
