package checkpointcodec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"
)

// training makes what a float32 training checkpoint looks like: weights, and
// Adam's first and second moments; and the same some steps later.
func training(n int, seed uint64) (now, later []byte) {
	r := rand.New(rand.NewPCG(seed, 7))
	put := func(b []byte, v float64) []byte {
		return binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(v)))
	}
	w, m, v := make([]float64, n), make([]float64, n), make([]float64, n)
	for i := range w {
		scale := math.Exp(r.NormFloat64())
		w[i], m[i], v[i] = r.NormFloat64()*0.05, r.NormFloat64()*1e-3*scale, 1e-6*scale*scale
	}
	write := func() (b []byte) {
		for _, part := range [][]float64{w, m, v} {
			for _, x := range part {
				b = put(b, x)
			}
		}
		return b
	}
	now = write()
	for range 10 {
		for i := range w {
			g := r.NormFloat64() * math.Sqrt(v[i])
			m[i] = 0.9*m[i] + 0.1*g
			v[i] = 0.999*v[i] + 0.001*g*g
			w[i] -= 3e-4 * m[i] / (math.Sqrt(v[i]) + 1e-8)
		}
	}
	return now, write()
}

func reader(b []byte) io.ReadSeeker {
	if b == nil {
		return nil
	}
	return bytes.NewReader(b)
}

func mustEncode(t interface{ Fatal(...any) }, src, base []byte) ([]byte, Stats) {
	var b bytes.Buffer
	s, err := Encode(&b, bytes.NewReader(src), reader(base))
	if err != nil {
		t.Fatal(err)
	}
	if s.Packed != int64(b.Len()) || s.Raw != int64(len(src)) {
		t.Fatal("the statistics lie", s, b.Len(), len(src))
	}
	return b.Bytes(), s
}

// Whatever goes in comes out, bit by bit, with and without a base.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		content := func(name string) []byte {
			n := rapid.SampledFrom([]int{0, 1, 3, 4, 7, 100, 4096, blockSize - 1, blockSize, blockSize + 5}).Draw(t, name+" size")
			r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, name+" seed"), 1))
			b := make([]byte, n)
			switch rapid.IntRange(0, 3).Draw(t, name+" kind") {
			case 0:
				for i := range b {
					b[i] = byte(r.Uint32())
				}
			case 1:
				for i := range b {
					b[i] = "the quick brown fox "[i%20]
				}
			case 2:
				for i := 0; i+4 <= n; i += 4 {
					binary.LittleEndian.PutUint32(b[i:], math.Float32bits(float32(r.NormFloat64())))
				}
			}
			return b
		}
		src := content("source")
		var base []byte
		if rapid.Bool().Draw(t, "delta") {
			base = content("base")
		}
		packed, _ := mustEncode(t, src, base)
		var out bytes.Buffer
		if _, err := Decode(&out, bytes.NewReader(packed), reader(base)); err != nil || !bytes.Equal(out.Bytes(), src) {
			t.Fatalf("%d bytes came back as %d: %v", len(src), out.Len(), err)
		}
	})
}

func TestItSavesWhatIsPromised(t *testing.T) {
	t.Parallel()
	now, later := training(200_000, 1)
	_, alone := mustEncode(t, later, nil)
	_, delta := mustEncode(t, later, now)
	if alone.Width != 4 || alone.Saved() < 0.15 {
		t.Errorf("standalone saves %.1f %% at width %d", 100*alone.Saved(), alone.Width)
	}
	if delta.Saved() < 0.25 {
		t.Errorf("the difference saves %.1f %%", 100*delta.Saved())
	}
	for _, level := range []zstd.EncoderLevel{zstd.SpeedDefault, zstd.SpeedBestCompression} {
		z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level))
		if err != nil {
			t.Fatal(err)
		}
		plain := len(z.EncodeAll(later, nil))
		t.Logf("standalone %.1f %%, difference %.1f %%, zstd %v %.1f %%", 100*alone.Saved(), 100*delta.Saved(), level, 100*(1-float64(plain)/float64(len(later))))
		if int64(plain) < alone.Packed {
			t.Errorf("zstd %v packs better: %d against %d bytes", level, plain, alone.Packed)
		}
	}
	same, stats := mustEncode(t, now, now)
	if stats.Saved() < 0.999 {
		t.Errorf("nothing changed and %d bytes are left", len(same))
	}
}

// Two models with a common trunk store it once: the difference costs their own half alone.
func TestASharedTrunkIsStoredOnce(t *testing.T) {
	t.Parallel()
	one, _ := training(300_000, 11)
	two, _ := training(300_000, 12)
	copy(two[:len(two)/2], one[:len(one)/2])
	_, half := mustEncode(t, two[len(two)/2:], nil)
	packed, shared := mustEncode(t, two, one)
	if want := float64(half.Packed)*1.02 + blockSize; float64(shared.Packed) > want {
		t.Errorf("half is shared and %d bytes are stored, the other half alone takes %d", shared.Packed, half.Packed)
	}
	var out bytes.Buffer
	if _, err := Decode(&out, bytes.NewReader(packed), reader(one)); err != nil || !bytes.Equal(out.Bytes(), two) {
		t.Errorf("other bytes came back: %v", err)
	}
	// And what shares nothing loses nothing.
	other, _ := training(300_000, 13)
	_, none := mustEncode(t, other, one)
	_, own := mustEncode(t, other, nil)
	if float64(none.Packed) > 1.005*float64(own.Packed) {
		t.Errorf("a useless base costs %d bytes on %d", none.Packed-own.Packed, own.Packed)
	}
}

// Damage anywhere is an error and never other bytes.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	now, later := training(1500, 2)
	for _, base := range [][]byte{nil, now} {
		packed, _ := mustEncode(t, later, base)
		r := rand.New(rand.NewPCG(3, 4))
		for range 2000 {
			bit := r.IntN(8 * len(packed))
			packed[bit/8] ^= 1 << (bit % 8)
			var out bytes.Buffer
			if _, err := Decode(&out, bytes.NewReader(packed), reader(base)); err == nil {
				t.Fatalf("bit %d is not noticed", bit)
			}
			packed[bit/8] ^= 1 << (bit % 8)
		}
		for cut := range len(packed) {
			if cut%97 == 0 || cut > len(packed)-50 {
				if _, err := Decode(io.Discard, bytes.NewReader(packed[:cut]), reader(base)); err == nil {
					t.Fatalf("a file cut to %d bytes is not noticed", cut)
				}
			}
		}
		if _, err := Decode(io.Discard, bytes.NewReader(append(packed, 0)), reader(base)); !errors.Is(err, ErrFormat) {
			t.Fatalf("bytes behind the end: %v", err)
		}
	}
}

func TestTheWrongBaseIsRefused(t *testing.T) {
	t.Parallel()
	now, later := training(1000, 3)
	packed, _ := mustEncode(t, later, now)
	for _, base := range [][]byte{nil, later, now[1:]} {
		if _, err := Decode(io.Discard, bytes.NewReader(packed), reader(base)); !errors.Is(err, ErrBase) {
			t.Errorf("got %v", err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	now, later := training(300, 4)
	packed, _ := mustEncode(f, later, nil)
	f.Add(packed)
	packed, _ = mustEncode(f, later, now)
	f.Add(packed)
	f.Add([]byte(magic + "\x01\x04\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		if s, err := Decode(&out, bytes.NewReader(b), nil); err == nil && s.Raw != int64(out.Len()) {
			t.Fatal("the statistics lie")
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	now, later := training(1<<20, 5)
	for name, base := range map[string][]byte{"alone": nil, "delta": now} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(later)))
			for b.Loop() {
				if _, err := Encode(io.Discard, bytes.NewReader(later), reader(base)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	_, later := training(1<<20, 5)
	packed, _ := mustEncode(b, later, nil)
	b.SetBytes(int64(len(later)))
	for b.Loop() {
		if _, err := Decode(io.Discard, bytes.NewReader(packed), nil); err != nil {
			b.Fatal(err)
		}
	}
}
