package pth

import (
	"errors"
	"fmt"
	"strings"
)

// The values on the interpreter's stack. Containers are pointers, as a pickle
// fills them after it has referred to them.
type (
	mark  struct{}
	tuple []any
	list  struct{ items []any }
	dict  struct {
		keys, values []any
		at           map[any]int // where a key is, once there are several
	}
	opaque      struct{ name string }
	global      struct{ module, name string }
	tensorValue struct {
		storage       *storage
		dtype         string
		offset        int64
		shape, stride []int64
	}
)

// String returns "module.name".
func (g global) String() string { return g.module + "." + g.name }

// set keeps the last value of a key at the place of its first, as Python does.
// Keys that are no scalars are kept side by side.
func (d *dict) set(k, v any) {
	switch k.(type) {
	case string, int64, bool:
		if d.at == nil {
			d.at = map[any]int{}
		}
		if i, ok := d.at[k]; ok {
			d.values[i] = v
			return
		}
		d.at[k] = len(d.keys)
	}
	d.keys = append(d.keys, k)
	d.values = append(d.values, v)
}

// storageTypes maps torch's storage classes to element types.
var storageTypes = map[string]string{
	"DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "LongStorage": "I64",
	"IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8", "BoolStorage": "BOOL",
	"UntypedStorage": "U8",
}

// dtypes maps torch's types to ours where a tensor names its own.
var dtypes = map[string]string{
	"torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.int64": "I64",
	"torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8", "torch.bool": "BOOL",
	"torch.uint16": "U16", "torch.uint32": "U32", "torch.uint64": "U64", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}

// plain are other globals that stand for themselves.
var plain = map[string]bool{
	"torch.complex64": true, "torch.complex128": true, "torch.Tensor": true, "torch.nn.parameter.Parameter": true,
	"torch.nn.parameter.Buffer": true,
}

// callables are what REDUCE may call; each is a function of ours.
var callables = map[string]func(r *reader, args tuple) (any, error){
	"collections.OrderedDict":                    orderedDict,
	"torch._utils._rebuild_tensor_v2":            rebuildTensor,
	"torch._utils._rebuild_tensor":               rebuildTensor,
	"torch._utils._rebuild_tensor_v3":            rebuildTyped,
	"torch._utils._rebuild_parameter":            firstTensor,
	"torch._utils._rebuild_parameter_with_state": firstTensor,
	"collections.Counter":                        counter,
	"torch.Size":                                 firstTuple,
	"torch.device":                               deviceName,
	"_codecs.encode":                             encodeLatin1,
	"builtins.set":                               asList,
	"builtins.frozenset":                         asList,
	"__builtin__.set":                            asList,
	"__builtin__.frozenset":                      asList,
	"builtins.bytearray":                         asBytes,
	"__builtin__.bytearray":                      asBytes,
	"numpy.core.multiarray.scalar":               numpyScalar,
	"numpy._core.multiarray.scalar":              numpyScalar,
	"numpy.dtype":                                numpyDType,
}

// asList makes a set: its order in the file is kept.
func asList(_ *reader, args tuple) (any, error) {
	if len(args) == 0 {
		return &list{}, nil
	}
	if l, ok := args[0].(*list); ok && len(args) == 1 {
		return &list{items: l.items}, nil
	}
	return nil, errors.New("made from something else than a list")
}

// resolve looks a global up in the allow-list.
func (r *reader) resolve(module, name string) (any, error) {
	g := global{module, name}
	if _, ok := storageTypes[name]; ok && (module == "torch" || module == "torch.storage" || module == "torch.cuda") {
		return g, nil
	}
	if plain[g.String()] || dtypes[g.String()] != "" || g == subclass {
		return g, nil
	}
	if _, ok := callables[g.String()]; ok {
		return g, nil
	}
	text := fmt.Sprintf("the global %.100q", g.String())
	return opaque{g.String()}, r.refuse(text)
}

// call is REDUCE and NEWOBJ.
func (r *reader) call(f any, args tuple) (any, error) {
	switch f := f.(type) {
	case opaque:
		return f, nil // noted when it was resolved; lenient only
	case global:
		if f == subclass {
			return r.rebuildSubclass(args)
		}
		if fn := callables[f.String()]; fn != nil {
			v, err := fn(r, args)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			return v, nil
		}
		return nil, fmt.Errorf("%s is not callable", f)
	default:
		return nil, fmt.Errorf("a %T is called", f)
	}
}

func orderedDict(r *reader, args tuple) (any, error) {
	d := &dict{}
	if len(args) == 0 {
		return d, nil
	}
	pairs, ok := args[0].(*list)
	if !ok || len(args) > 1 {
		return nil, errors.New("is made from something else than a list of pairs")
	}
	if err := r.spend(len(pairs.items)); err != nil {
		return nil, err
	}
	for _, p := range pairs.items {
		switch p := p.(type) {
		case tuple:
			if len(p) == 2 {
				d.set(p[0], p[1])
				continue
			}
		case *list:
			if len(p.items) == 2 {
				d.set(p.items[0], p.items[1])
				continue
			}
		}
		return nil, errors.New("has an item that is not a pair")
	}
	return d, nil
}

// rebuildTensor takes (storage, offset, shape, stride, ...).
func rebuildTensor(r *reader, args tuple) (any, error) {
	if len(args) < 4 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	if o, ok := args[0].(opaque); ok {
		return o, nil
	}
	s, ok := args[0].(*storage)
	if !ok {
		return nil, errors.New("the first argument is not a storage")
	}
	offset, ok := args[1].(int64)
	shape, err1 := ints(args[2])
	stride, err2 := ints(args[3])
	if !ok || offset < 0 || err1 != nil || err2 != nil || len(shape) != len(stride) || len(shape) > maxDims {
		return nil, errors.New("malformed offset, shape or strides")
	}
	return &tensorValue{storage: s, dtype: s.dtype, offset: offset, shape: shape, stride: stride}, nil
}

// rebuildTyped takes a storage of bytes and, as the seventh argument, the type: how
// torch writes the types that came after its storage classes.
func rebuildTyped(r *reader, args tuple) (any, error) {
	if len(args) < 7 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	v, err := rebuildTensor(r, args)
	t, ok := v.(*tensorValue)
	if err != nil || !ok {
		return v, err
	}
	g, _ := args[6].(global)
	if t.dtype = dtypes[g.String()]; t.dtype == "" {
		name := fmt.Sprint(args[6])
		return opaque{name}, r.refuse(fmt.Sprintf("a tensor of type %.40q", name))
	}
	return t, nil
}

// subclass rebuilds a Parameter or Tensor that carries attributes of its own:
// (function, class, arguments, state). The attributes are left out.
var subclass = global{"torch._tensor", "_rebuild_from_type_v2"}

func (r *reader) rebuildSubclass(args tuple) (any, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("%d arguments", len(args))
	}
	inner, ok := args[2].(tuple)
	if f, isGlobal := args[0].(global); isGlobal && f == subclass {
		ok = false
	}
	if !ok {
		return nil, errors.New("a subclass of a tensor that is malformed")
	}
	return r.call(args[0], inner)
}

// counter makes collections.Counter from its dictionary: milestones of a schedule.
func counter(_ *reader, args tuple) (any, error) {
	switch {
	case len(args) == 0:
		return &dict{}, nil
	case len(args) == 1:
		if d, ok := args[0].(*dict); ok {
			return d, nil
		}
	}
	return nil, errors.New("is made from something else than a dictionary")
}

func ints(v any) ([]int64, error) {
	t, ok := v.(tuple)
	if !ok {
		return nil, errors.New("not a tuple")
	}
	out := make([]int64, len(t))
	for i, x := range t {
		n, ok := x.(int64)
		if !ok || n < 0 {
			return nil, errors.New("not a size")
		}
		out[i] = n
	}
	return out, nil
}

func firstTensor(_ *reader, args tuple) (any, error) {
	if len(args) > 0 {
		switch args[0].(type) {
		case *tensorValue, opaque:
			return args[0], nil
		}
	}
	return nil, errors.New("not made from a tensor")
}

func firstTuple(_ *reader, args tuple) (any, error) {
	if len(args) == 1 {
		if t, ok := args[0].(tuple); ok {
			return t, nil
		}
	}
	return nil, errors.New("not made from a tuple")
}

func deviceName(_ *reader, args tuple) (any, error) {
	var parts []string
	for _, a := range args {
		parts = append(parts, fmt.Sprint(a))
	}
	return strings.Join(parts, ":"), nil
}

// encodeLatin1 is how protocol 2 writes bytes: text whose runes are bytes.
func encodeLatin1(r *reader, args tuple) (any, error) {
	if len(args) != 2 || args[1] != "latin1" {
		return nil, errors.New("an encoding other than latin1")
	}
	s, ok := args[0].(string)
	if !ok {
		return nil, errors.New("not a text")
	}
	if err := r.spend(len(s)); err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(s))
	for _, c := range s {
		if c > 255 {
			return nil, errors.New("a character that latin1 does not have")
		}
		out = append(out, byte(c))
	}
	return out, nil
}

func asBytes(r *reader, args tuple) (any, error) {
	switch len(args) {
	case 0:
		return []byte{}, nil
	case 1:
		if b, ok := args[0].([]byte); ok {
			return b, nil
		}
	case 2:
		return encodeLatin1(r, args)
	}
	return nil, errors.New("not made from bytes")
}
