package staging

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// A pickle is a program. This walk never runs one: it follows the opcodes that
// torch.save writes with a symbolic stack, and refuses every other opcode and
// every callable that is not on the list. A block list was the alternative; each
// of the scanners that use one has been bypassed.

// Symbols of the walk's stack. Plain values are themselves.
type (
	global string // module.name
	marker struct{}
	opaque struct{} // a value whose content does not matter
)

// storage is a tensor's memory, as a pickle names it.
type storage struct {
	key, dtype string
	numel      int64
}

// storageTypes are torch's typed storages with their element types.
var storageTypes = map[global]string{
	"torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16", "torch.BFloat16Storage": "BF16",
	"torch.LongStorage": "I64", "torch.IntStorage": "I32", "torch.ShortStorage": "I16", "torch.CharStorage": "I8",
	"torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}

// allowed are the callables and constants that a checkpoint may name.
var allowed = map[global]bool{
	"collections.OrderedDict": true, "torch._utils._rebuild_tensor": true, "torch._utils._rebuild_tensor_v2": true,
	"torch._utils._rebuild_parameter": true, "torch._utils._rebuild_parameter_with_state": true,
	"torch.Size": true, "torch.device": true, "_codecs.encode": true,
	"__builtin__.set": true, "builtins.set": true, "__builtin__.bytearray": true, "builtins.bytearray": true,
	"__builtin__.complex": true, "builtins.complex": true,
	"torch.float64": true, "torch.float32": true, "torch.float16": true, "torch.bfloat16": true, "torch.int64": true,
	"torch.int32": true, "torch.int16": true, "torch.int8": true, "torch.uint8": true, "torch.bool": true,
}

// maxPickle and maxDepth bound what is looked at.
const (
	maxPickle = 256 << 20
	maxDepth  = 1 << 20
)

type walk struct {
	in       *bytes.Reader
	stack    []any
	memo     map[uint64]any
	storages []storage
}

// scanPickle walks a pickle and returns the storages that it names.
func scanPickle(raw []byte) ([]storage, error) {
	w := &walk{in: bytes.NewReader(raw), memo: map[uint64]any{}}
	for {
		at := len(raw) - w.in.Len()
		op, err := w.in.ReadByte()
		if err != nil {
			return nil, errors.New("the pickle ends without STOP")
		}
		if op == '.' {
			if w.in.Len() > 0 {
				return nil, errors.New("the pickle goes on after STOP")
			}
			return w.storages, nil
		}
		if err := w.step(op); err != nil {
			return nil, fmt.Errorf("pickle opcode 0x%02x at %d: %w", op, at, err)
		}
		if len(w.stack) > maxDepth {
			return nil, errors.New("the pickle is nested too deep")
		}
	}
}

var errShort = errors.New("is cut short")

func (w *walk) bytes(n uint64) ([]byte, error) {
	if n > uint64(w.in.Len()) {
		return nil, errShort
	}
	out := make([]byte, n)
	_, err := w.in.Read(out)
	if n == 0 {
		err = nil
	}
	return out, err
}

// number reads a little-endian unsigned number of some width.
func (w *walk) number(width uint64) (uint64, error) {
	raw, err := w.bytes(width)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(append(raw, make([]byte, 8)...)), nil
}

func (w *walk) line() (string, error) {
	var out []byte
	for {
		b, err := w.in.ReadByte()
		if err != nil || len(out) > 1000 {
			return "", errShort
		}
		if b == '\n' {
			return string(out), nil
		}
		out = append(out, b)
	}
}

func (w *walk) push(v any) error {
	w.stack = append(w.stack, v)
	return nil
}

func (w *walk) pop() (any, error) {
	if len(w.stack) == 0 {
		return nil, errors.New("pops an empty stack")
	}
	v := w.stack[len(w.stack)-1]
	w.stack = w.stack[:len(w.stack)-1]
	return v, nil
}

func (w *walk) popMark() ([]any, error) {
	for i := len(w.stack) - 1; i >= 0; i-- {
		if _, ok := w.stack[i].(marker); ok {
			values := append([]any(nil), w.stack[i+1:]...)
			w.stack = w.stack[:i]
			return values, nil
		}
	}
	return nil, errors.New("has no mark")
}

// drop pops n values and leaves the container below them.
func (w *walk) drop(n int) error {
	for range n {
		if _, err := w.pop(); err != nil {
			return err
		}
	}
	if len(w.stack) == 0 {
		return errors.New("has no container")
	}
	return nil
}

// sized are opcodes that are followed by a length and that many bytes.
var sized = map[byte]uint64{'X': 4, 0x8c: 1, 0x8d: 8, 'U': 1, 'T': 4, 'B': 4, 'C': 1, 0x8e: 8, 0x96: 8, 0x8a: 1, 0x8b: 4}

// fixed are opcodes that are followed by a number of that width.
var fixed = map[byte]uint64{'J': 4, 'K': 1, 'M': 2, 'G': 8}

func (w *walk) step(op byte) error {
	if width, ok := sized[op]; ok {
		n, err := w.number(width)
		if err != nil {
			return err
		}
		raw, err := w.bytes(n)
		if err != nil {
			return err
		}
		if op == 'X' || op == 0x8c || op == 0x8d {
			return w.push(string(raw))
		}
		if (op == 0x8a || op == 0x8b) && n <= 8 {
			return w.push(int64(binary.LittleEndian.Uint64(append(raw, make([]byte, 8)...))))
		}
		return w.push(opaque{})
	}
	if width, ok := fixed[op]; ok {
		n, err := w.number(width)
		if err != nil {
			return err
		}
		if op == 'J' {
			return w.push(int64(int32(n)))
		}
		return w.push(int64(n))
	}
	switch op {
	case 0x80: // PROTO
		_, err := w.bytes(1)
		return err
	case 0x95: // FRAME
		_, err := w.bytes(8)
		return err
	case '}', ']', 0x8f, 'N', 0x88, 0x89:
		return w.push(opaque{})
	case ')':
		return w.push([]any{})
	case '(':
		return w.push(marker{})
	case '0':
		_, err := w.pop()
		return err
	case '1':
		_, err := w.popMark()
		return err
	}
	return w.compose(op)
}

// compose handles opcodes that combine what is on the stack.
func (w *walk) compose(op byte) error {
	switch op {
	case 'q', 'r', 0x94, 'h', 'j':
		return w.remember(op)
	case 't':
		values, err := w.popMark()
		if err != nil {
			return err
		}
		return w.push(values)
	case 0x85, 0x86, 0x87:
		n := int(op - 0x84)
		if len(w.stack) < n {
			return errors.New("pops an empty stack")
		}
		values := append([]any(nil), w.stack[len(w.stack)-n:]...)
		w.stack = w.stack[:len(w.stack)-n]
		return w.push(values)
	case 'd', 'l', 0x91:
		if _, err := w.popMark(); err != nil {
			return err
		}
		return w.push(opaque{})
	case 's':
		return w.drop(2)
	case 'a':
		return w.drop(1)
	case 'u', 'e', 0x90:
		if _, err := w.popMark(); err != nil {
			return err
		}
		return w.drop(0)
	case 'b':
		return w.drop(1)
	case 'c', 0x93:
		return w.name(op)
	case 'R', 0x81:
		return w.call()
	case 'Q':
		return w.persistent()
	}
	return errors.New("is not one that torch.save writes")
}

func (w *walk) remember(op byte) error {
	index := uint64(len(w.memo))
	if op != 0x94 {
		width := uint64(1)
		if op == 'r' || op == 'j' {
			width = 4
		}
		n, err := w.number(width)
		if err != nil {
			return err
		}
		index = n
	}
	if op == 'h' || op == 'j' {
		v, ok := w.memo[index]
		if !ok {
			return errors.New("recalls what was never remembered")
		}
		return w.push(v)
	}
	if len(w.stack) == 0 {
		return errors.New("remembers an empty stack")
	}
	w.memo[index] = w.stack[len(w.stack)-1]
	return nil
}

// name takes a global, by GLOBAL or STACK_GLOBAL.
func (w *walk) name(op byte) error {
	var module, name string
	if op == 'c' {
		var err error
		if module, err = w.line(); err != nil {
			return err
		}
		if name, err = w.line(); err != nil {
			return err
		}
	} else {
		second, err := w.pop()
		if err != nil {
			return err
		}
		first, err := w.pop()
		if err != nil {
			return err
		}
		var ok, okToo bool
		module, ok = first.(string)
		name, okToo = second.(string)
		if !ok || !okToo {
			return errors.New("names a global by something that is no string")
		}
	}
	g := global(module + "." + name)
	if _, isStorage := storageTypes[g]; !isStorage && !allowed[g] {
		return fmt.Errorf("names %q, which no checkpoint needs", g)
	}
	return w.push(g)
}

// call replaces a callable and its arguments by their result.
func (w *walk) call() error {
	args, err := w.pop()
	if err != nil {
		return err
	}
	callable, err := w.pop()
	if err != nil {
		return err
	}
	if _, ok := args.([]any); !ok {
		return errors.New("calls with something that is no tuple")
	}
	if g, ok := callable.(global); !ok || !allowed[g] {
		return fmt.Errorf("calls %v", callable)
	}
	return w.push(opaque{})
}

// persistent takes ("storage", type, key, location, number of elements).
func (w *walk) persistent() error {
	v, err := w.pop()
	if err != nil {
		return err
	}
	id, ok := v.([]any)
	if !ok || len(id) != 5 || id[0] != "storage" {
		return errors.New("refers to something that is no storage")
	}
	kind, ok := id[1].(global)
	key, okToo := id[2].(string)
	numel, okThree := id[4].(int64)
	dtype := storageTypes[kind]
	if !ok || !okToo || !okThree || dtype == "" || numel < 0 {
		return fmt.Errorf("refers to a storage of an unknown kind: %v", id)
	}
	w.storages = append(w.storages, storage{key: key, dtype: dtype, numel: numel})
	return w.push(opaque{})
}
