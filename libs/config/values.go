package config

import (
	"encoding"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/bits"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. Its text form is a whole number with a unit: B, KB, MB,
// GB, TB (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024); no unit means bytes.
type Bytes uint64

var units = []struct {
	name string
	size uint64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1},
}

// ParseBytes reads the text form of Bytes. Fractions are taken where they come
// to whole bytes ("1.5GiB").
func ParseBytes(s string) (Bytes, error) {
	text, unit := strings.TrimSpace(s), uint64(1)
	for _, u := range units {
		if rest, ok := cutUnit(text, u.name); ok {
			text, unit = strings.TrimSpace(rest), u.size
			break
		}
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil {
		hi, lo := bits.Mul64(n, unit)
		if hi != 0 {
			return 0, errors.New("is too large")
		}
		return Bytes(lo), nil
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f < 0 || math.IsNaN(f) || strings.ContainsAny(text, "eExX") {
		return 0, errors.New("is not a size; write it like 512MiB or 40GiB")
	}
	total := f * float64(unit)
	if total >= math.MaxUint64 {
		return 0, errors.New("is too large")
	}
	if total != math.Trunc(total) {
		return 0, errors.New("is not a whole number of bytes")
	}
	return Bytes(total), nil
}

func cutUnit(s, unit string) (string, bool) {
	if len(s) < len(unit) || !strings.EqualFold(s[len(s)-len(unit):], unit) {
		return s, false
	}
	return s[:len(s)-len(unit)], true
}

// String gives the shortest exact form.
func (b Bytes) String() string {
	for _, u := range units {
		if u.size > 1 && b > 0 && uint64(b)%u.size == 0 {
			return strconv.FormatUint(uint64(b)/u.size, 10) + u.name
		}
	}
	return strconv.FormatUint(uint64(b), 10) + "B"
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *Bytes) UnmarshalText(text []byte) error {
	v, err := ParseBytes(string(text))
	if err != nil {
		return err
	}
	*b = v
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// Secret is a string that does not show itself in logs, dumps and messages. Every
// printing verb, JSON, YAML and slog give "[secret]"; Reveal gives the value.
type Secret string

const redacted = "[secret]"

// Reveal returns the value, for the one place that uses it.
func (s Secret) Reveal() string { return string(s) }

// String implements fmt.Stringer.
func (s Secret) String() string { return redacted }

// Format implements fmt.Formatter, so that %#v, %x and %q are covered too.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

func isText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

func supported(v reflect.Value) bool {
	if isText(v) {
		return true
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	case reflect.Slice:
		return v.Type().Elem().Kind() == reflect.String
	case reflect.Map:
		return v.Type() == reflect.TypeFor[map[string]string]()
	}
	return false
}

// set parses text into v. Its errors complete the sentence `"text" ...`.
func set(v reflect.Value, text string) error {
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		d, err := time.ParseDuration(text)
		if err != nil {
			return errors.New("is not a duration; write it like 15s, 10m or 2h30m")
		}
		v.SetInt(int64(d))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return errors.New("is neither true nor false")
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("is not a whole number in range")
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		n, err := strconv.ParseUint(text, 10, v.Type().Bits())
		if err != nil {
			return errors.New("is not a whole number of zero or more, in range")
		}
		v.SetUint(n)
	case reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return errors.New("is not a finite number")
		}
		v.SetFloat(f)
	case reflect.Slice:
		return setList(v, text)
	case reflect.Map:
		return setMap(v, text)
	}
	return nil
}

func setList(v reflect.Value, text string) error {
	if text == "" {
		v.SetZero()
		return nil
	}
	parts := strings.Split(text, ",")
	out := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, p := range parts {
		p = strings.TrimSpace(p)
		if p == "" {
			return errors.New("has an empty item")
		}
		out.Index(i).SetString(p)
	}
	v.Set(out)
	return nil
}

func setMap(v reflect.Value, text string) error {
	out := map[string]string{}
	if text != "" {
		for part := range strings.SplitSeq(text, ",") {
			k, val, ok := strings.Cut(strings.TrimSpace(part), "=")
			if !ok || k == "" {
				return errors.New("is not a list like key=value,key2=value2")
			}
			if _, again := out[k]; again {
				return fmt.Errorf("names %q twice", k)
			}
			out[k] = val
		}
	}
	v.Set(reflect.ValueOf(out))
	return nil
}
