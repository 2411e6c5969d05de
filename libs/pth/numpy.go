package pth

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// dtype is numpy.dtype: kind, size and, after its state is set, byte order.
type dtype struct {
	code string // "f8", "i4", ...
	big  bool
}

func numpyDType(_ *reader, args tuple) (any, error) {
	if len(args) == 0 {
		return nil, errors.New("without a code")
	}
	code, ok := args[0].(string)
	switch code {
	case "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1":
	default:
		ok = false
	}
	if !ok {
		return nil, fmt.Errorf("dtype %.20q", fmt.Sprint(args[0]))
	}
	return &dtype{code: code}, nil
}

// setState takes BUILD's state (version, byte order, ...).
func (d *dtype) setState(state any) error {
	t, ok := state.(tuple)
	if !ok || len(t) < 2 {
		return errors.New("malformed dtype state")
	}
	switch t[1] {
	case "<", "|", "=":
		d.big = false
	case ">":
		d.big = true
	default:
		return errors.New("unknown byte order of a dtype")
	}
	return nil
}

func numpyScalar(_ *reader, args tuple) (any, error) {
	if len(args) != 2 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	d, ok := args[0].(*dtype)
	b, isBytes := args[1].([]byte)
	if !ok || !isBytes || len(b) != int(d.code[1]-'0') {
		return nil, errors.New("the bytes do not match the dtype")
	}
	var v uint64
	for i := range b {
		j := i
		if !d.big {
			j = len(b) - 1 - i
		}
		v = v<<8 | uint64(b[j])
	}
	switch d.code {
	case "f8":
		return math.Float64frombits(v), nil
	case "f4":
		return float64(math.Float32frombits(uint32(v))), nil
	case "f2":
		return float64(Float16(uint16(v))), nil
	case "b1":
		return v != 0, nil
	case "u8":
		if v > math.MaxInt64 {
			return fmt.Sprint(v), nil
		}
		return int64(v), nil
	}
	if d.code[0] == 'u' {
		return int64(v), nil
	}
	shift := 64 - 8*len(b)
	return int64(v<<shift) >> shift, nil
}

// Float16 returns the value of IEEE half-precision bits, subnormals included.
func Float16(h uint16) float32 {
	sign := uint32(h&0x8000) << 16
	exp, frac := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch exp {
	case 0:
		// Zero or subnormal: frac times 2^-24, exact in float32.
		v := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(v) | sign)
	case 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// float8 returns the value of e4m3fn bits: no infinity, 0x7f is NaN.
func float8(b byte) float32 {
	sign, exp, frac := float32(1), int(b>>3&0xf), float32(b&7)
	if b&0x80 != 0 {
		sign = -1
	}
	switch {
	case b&0x7f == 0x7f:
		return float32(math.NaN())
	case exp == 0:
		return sign * frac * 0x1p-9
	}
	return sign * (1 + frac/8) * float32(math.Ldexp(1, exp-7))
}

// Float32s returns the tensor's values. Integers and doubles are rounded.
func (t *Tensor) Float32s() ([]float32, error) {
	size := sizes[t.DType]
	if size == 0 {
		return nil, fmt.Errorf("pth: tensor %q has the unknown dtype %q", t.Name, t.DType)
	}
	out := make([]float32, len(t.Data)/size)
	le := binary.LittleEndian
	for i := range out {
		b := t.Data[i*size:]
		switch t.DType {
		case "F64":
			out[i] = float32(math.Float64frombits(le.Uint64(b)))
		case "F32":
			out[i] = math.Float32frombits(le.Uint32(b))
		case "F16":
			out[i] = Float16(le.Uint16(b))
		case "BF16":
			out[i] = math.Float32frombits(uint32(le.Uint16(b)) << 16)
		case "I64":
			out[i] = float32(int64(le.Uint64(b)))
		case "I32":
			out[i] = float32(int32(le.Uint32(b)))
		case "I16":
			out[i] = float32(int16(le.Uint16(b)))
		case "I8":
			out[i] = float32(int8(b[0]))
		case "U64":
			out[i] = float32(le.Uint64(b))
		case "U32":
			out[i] = float32(le.Uint32(b))
		case "U16":
			out[i] = float32(le.Uint16(b))
		case "F8_E4M3":
			out[i] = float8(b[0])
		case "F8_E5M2":
			out[i] = Float16(uint16(b[0]) << 8) // the upper half of half precision
		default:
			out[i] = float32(b[0])
		}
	}
	return out, nil
}
