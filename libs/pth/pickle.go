package pth

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf8"
)

// machine interprets one pickle.
type machine struct {
	r     *reader
	in    []byte
	at    int
	stack []any
	// The memo is numbered from 0 by every writer; what is not lies in sparse.
	memo   []any
	sparse map[int]any
	// persistent resolves BINPERSID.
	persistent func(id any) (any, error)
}

var errShort = errors.New("the pickle ends in the middle of an opcode")

// unpickle runs one pickle and returns its value and the bytes it took.
func (r *reader) unpickle(in []byte, persistent func(any) (any, error)) (value any, used int, err error) {
	m := &machine{r: r, in: in, sparse: map[int]any{}, persistent: persistent}
	for range maxOpcodes {
		op, err := m.byte()
		if err != nil {
			return nil, 0, err
		}
		if op == '.' {
			v, err := m.pop()
			return v, m.at, err
		}
		at := m.at - 1
		if err := m.step(op); err != nil {
			return nil, 0, fmt.Errorf("opcode %q at byte %d: %w", op, at, err)
		}
		if m.r.values -= cost(op); m.r.values < 0 {
			return nil, 0, errors.New("its values need more memory than any model's do")
		}
	}
	return nil, 0, fmt.Errorf("more than %d opcodes", maxOpcodes)
}

// cost is about what an opcode leaves in memory.
func cost(op byte) int64 {
	switch op {
	case ']', '}', 0x8f, 'l', 'd', 0x91, 'R', 0x81, 'c', 0x93, 'r', 'p':
		return 2 * valueBytes
	}
	return valueBytes
}

func (m *machine) take(n uint64) ([]byte, error) {
	if n > uint64(len(m.in)-m.at) {
		return nil, errShort
	}
	b := m.in[m.at : m.at+int(n)]
	m.at += int(n)
	return b, nil
}

func (m *machine) byte() (byte, error) {
	b, err := m.take(1)
	if err != nil {
		return 0, err
	}
	return b[0], nil
}

// number reads a little-endian length of n bytes.
func (m *machine) number(n int) (uint64, error) {
	b, err := m.take(uint64(n))
	if err != nil {
		return 0, err
	}
	var buf [8]byte
	copy(buf[:], b)
	return binary.LittleEndian.Uint64(buf[:]), nil
}

// sized reads a length of n bytes, then that many bytes.
func (m *machine) sized(n int) ([]byte, error) {
	size, err := m.number(n)
	if err != nil {
		return nil, err
	}
	return m.take(size)
}

func (m *machine) line() (string, error) {
	i := bytes.IndexByte(m.in[m.at:min(m.at+4096, len(m.in))], '\n')
	if i < 0 {
		return "", errors.New("a line without end")
	}
	s := string(m.in[m.at : m.at+i])
	m.at += i + 1
	return s, nil
}

func (m *machine) push(v any) { m.stack = append(m.stack, v) }

func (m *machine) pop() (any, error) {
	n := len(m.stack)
	if n == 0 {
		return nil, errors.New("the stack is empty")
	}
	v := m.stack[n-1]
	if _, isMark := v.(mark); isMark {
		return nil, errors.New("a mark where a value should be")
	}
	m.stack = m.stack[:n-1]
	return v, nil
}

// popMark returns what was pushed since the last mark.
func (m *machine) popMark() ([]any, error) {
	for i := len(m.stack) - 1; i >= 0; i-- {
		if _, ok := m.stack[i].(mark); ok {
			items := append([]any(nil), m.stack[i+1:]...)
			m.stack = m.stack[:i]
			return items, nil
		}
	}
	return nil, errors.New("no mark on the stack")
}

func (m *machine) top() (any, error) {
	if len(m.stack) == 0 {
		return nil, errors.New("the stack is empty")
	}
	return m.stack[len(m.stack)-1], nil
}

func (m *machine) step(op byte) error {
	switch op {
	case 0x80: // PROTO
		v, err := m.byte()
		if err == nil && v > 5 {
			err = fmt.Errorf("protocol %d", v)
		}
		return err
	case 0x95: // FRAME
		_, err := m.number(8)
		return err
	case '(':
		m.push(mark{})
		return nil
	case '0': // POP
		if len(m.stack) == 0 {
			return errors.New("the stack is empty")
		}
		m.stack = m.stack[:len(m.stack)-1]
		return nil
	case '1': // POP_MARK
		_, err := m.popMark()
		return err
	case '2': // DUP
		v, err := m.top()
		m.push(v)
		return err
	case 'N':
		m.push(nil)
		return nil
	case 0x88, 0x89:
		m.push(op == 0x88)
		return nil
	}
	if done, err := m.scalar(op); done {
		return err
	}
	if done, err := m.container(op); done {
		return err
	}
	return m.object(op)
}

// scalar handles numbers, text and bytes.
func (m *machine) scalar(op byte) (bool, error) {
	text := func(b []byte, err error) (bool, error) {
		if err == nil && !utf8.Valid(b) {
			// Python's surrogates; names with them are of no use to anybody.
			err = errors.New("a text that is not UTF-8")
		}
		m.push(string(b))
		return true, err
	}
	raw := func(b []byte, err error) (bool, error) {
		m.push(b)
		return true, err
	}
	switch op {
	case 'J':
		v, err := m.number(4)
		m.push(int64(int32(v)))
		return true, err
	case 'K':
		v, err := m.number(1)
		m.push(int64(v))
		return true, err
	case 'M':
		v, err := m.number(2)
		m.push(int64(v))
		return true, err
	case 0x8a, 0x8b: // LONG1, LONG4
		b, err := m.sized(map[byte]int{0x8a: 1, 0x8b: 4}[op])
		if len(b) > 64 {
			err = errors.New("an integer of more than 512 bits")
			b = nil
		}
		m.push(long(b))
		return true, err
	case 'G':
		b, err := m.take(8)
		if err != nil {
			return true, err
		}
		m.push(math.Float64frombits(binary.BigEndian.Uint64(b)))
		return true, nil
	case 'I', 'L': // INT, LONG as text
		s, err := m.line()
		s = strings.TrimSuffix(s, "L")
		if op == 'I' && (s == "00" || s == "01") {
			m.push(s == "01")
			return true, err
		}
		if err != nil {
			return true, err
		}
		v, ok := new(big.Int).SetString(s, 10)
		if !ok || len(s) > 160 {
			return true, fmt.Errorf("%.40q is not an integer", s)
		}
		m.push(integer(v))
		return true, nil
	case 'F':
		s, err := m.line()
		v, perr := strconv.ParseFloat(s, 64)
		m.push(v)
		return true, errors.Join(err, perr)
	case 'X':
		return text(m.sized(4))
	case 0x8c:
		return text(m.sized(1))
	case 0x8d:
		return text(m.sized(8))
	case 'T': // BINSTRING of Python 2
		return text(m.sized(4))
	case 'U':
		return text(m.sized(1))
	case 'B':
		return raw(m.sized(4))
	case 'C':
		return raw(m.sized(1))
	case 0x8e, 0x96: // BINBYTES8, BYTEARRAY8
		return raw(m.sized(8))
	}
	return false, nil
}

// long decodes a two's-complement little-endian integer.
func long(b []byte) any {
	if len(b) <= 8 {
		var v uint64
		for i := len(b) - 1; i >= 0; i-- {
			v = v<<8 | uint64(b[i])
		}
		if n := len(b); n > 0 && n < 8 && b[n-1] >= 0x80 {
			v |= ^uint64(0) << (8 * n)
		}
		return int64(v)
	}
	be := make([]byte, len(b))
	for i := range b {
		be[len(b)-1-i] = b[i]
	}
	n := new(big.Int).SetBytes(be)
	if b[len(b)-1] >= 0x80 {
		n.Sub(n, new(big.Int).Lsh(big.NewInt(1), uint(8*len(b))))
	}
	return integer(n)
}

// integer is an int64, or the decimal text of a larger number.
func integer(n *big.Int) any {
	if n.IsInt64() {
		return n.Int64()
	}
	return n.String()
}

// container handles tuples, lists, dictionaries and sets.
func (m *machine) container(op byte) (bool, error) {
	switch op {
	case ')':
		m.push(tuple{})
	case 't', 'l', 'd', 0x91: // TUPLE, LIST, DICT, FROZENSET from a mark
		items, err := m.popMark()
		if err != nil {
			return true, err
		}
		switch op {
		case 't':
			m.push(tuple(items))
		case 'd':
			d := &dict{}
			m.push(d)
			return true, d.fill(items)
		default:
			m.push(&list{items: items})
		}
	case 0x85, 0x86, 0x87: // TUPLE1..3
		n := int(op) - 0x84
		t := make(tuple, n)
		for i := n - 1; i >= 0; i-- {
			v, err := m.pop()
			if err != nil {
				return true, err
			}
			t[i] = v
		}
		m.push(t)
	case ']', 0x8f: // EMPTY_LIST, EMPTY_SET
		m.push(&list{})
	case '}':
		m.push(&dict{})
	case 'a': // APPEND
		v, err := m.pop()
		if err != nil {
			return true, err
		}
		return true, m.extend([]any{v})
	case 'e', 0x90: // APPENDS, ADDITEMS
		items, err := m.popMark()
		if err != nil {
			return true, err
		}
		return true, m.extend(items)
	case 's': // SETITEM
		v, err1 := m.pop()
		k, err2 := m.pop()
		if err := errors.Join(err1, err2); err != nil {
			return true, err
		}
		return true, m.fillTop([]any{k, v})
	case 'u': // SETITEMS
		items, err := m.popMark()
		if err != nil {
			return true, err
		}
		return true, m.fillTop(items)
	default:
		return false, nil
	}
	return true, nil
}

func (m *machine) extend(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *list:
		v.items = append(v.items, items...)
	case opaque: // lenient: its content is left out with it
	default:
		return fmt.Errorf("items for a %T", v)
	}
	return nil
}

func (m *machine) fillTop(items []any) error {
	v, err := m.top()
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case *dict:
		return v.fill(items)
	case opaque:
		return nil
	default:
		return fmt.Errorf("keys for a %T", v)
	}
}

func (d *dict) fill(items []any) error {
	if len(items)%2 != 0 {
		return errors.New("a key without a value")
	}
	for i := 0; i < len(items); i += 2 {
		d.set(items[i], items[i+1])
	}
	return nil
}

// object handles the memo, globals, calls and persistent ids.
func (m *machine) object(op byte) error {
	switch op {
	case 'q', 'r', 'p', 0x94: // BINPUT, LONG_BINPUT, PUT, MEMOIZE
		index, err := m.memoIndex(op)
		if err != nil {
			return err
		}
		v, err := m.top()
		if index == len(m.memo) {
			m.memo = append(m.memo, v)
		} else if index < len(m.memo) {
			m.memo[index] = v
		} else {
			m.sparse[index] = v
		}
		return err
	case 'h', 'j', 'g': // BINGET, LONG_BINGET, GET
		index, err := m.memoIndex(op)
		if err != nil {
			return err
		}
		if index < len(m.memo) {
			m.push(m.memo[index])
			return nil
		}
		v, ok := m.sparse[index]
		if !ok {
			return fmt.Errorf("memo %d is empty", index)
		}
		m.push(v)
		return nil
	case 'c': // GLOBAL
		module, err1 := m.line()
		name, err2 := m.line()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		return m.pushGlobal(module, name)
	case 0x93: // STACK_GLOBAL
		n, err1 := m.pop()
		mod, err2 := m.pop()
		name, ok1 := n.(string)
		module, ok2 := mod.(string)
		if err := errors.Join(err1, err2); err != nil || !ok1 || !ok2 {
			return errors.Join(err, errors.New("a global without a name"))
		}
		return m.pushGlobal(module, name)
	case 'R', 0x81: // REDUCE, NEWOBJ
		a, err1 := m.pop()
		f, err2 := m.pop()
		args, ok := a.(tuple)
		if err := errors.Join(err1, err2); err != nil || !ok {
			return errors.Join(err, errors.New("a call without a tuple of arguments"))
		}
		v, err := m.r.call(f, args)
		m.push(v)
		return err
	case 'b': // BUILD
		state, err1 := m.pop()
		v, err2 := m.top()
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		switch v := v.(type) {
		case *dtype:
			return v.setState(state)
		case *dict, *tensorValue, opaque:
			return nil // attributes of a state_dict (_metadata) or of a parameter: nothing we keep
		default:
			return fmt.Errorf("a state for a %T", v)
		}
	case 'Q': // BINPERSID
		id, err := m.pop()
		if err != nil {
			return err
		}
		if m.persistent == nil {
			return errors.New("a persistent id where there can be none")
		}
		v, err := m.persistent(id)
		m.push(v)
		return err
	}
	return errors.New("an opcode that is not allowed")
}

func (m *machine) pushGlobal(module, name string) error {
	v, err := m.r.resolve(module, name)
	m.push(v)
	return err
}

func (m *machine) memoIndex(op byte) (int, error) {
	switch op {
	case 0x94:
		return len(m.memo) + len(m.sparse), nil
	case 'q', 'h':
		v, err := m.number(1)
		return int(v), err
	case 'r', 'j':
		v, err := m.number(4)
		return int(v), err
	}
	s, err := m.line()
	if err != nil {
		return 0, err
	}
	v, err := strconv.Atoi(s)
	if err == nil && v < 0 {
		err = errors.New("a negative memo index")
	}
	return v, err
}
