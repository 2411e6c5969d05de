//go:build results

package sweep_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// network is what trains: weights and Adam's moments, with a trunk that some specialists share.
type network struct{ w, m, v []float64 }

func newNetwork(r *rand.Rand, n int) *network {
	x := &network{make([]float64, n), make([]float64, n), make([]float64, n)}
	for i := range n {
		scale := math.Exp(r.NormFloat64())
		x.w[i], x.m[i], x.v[i] = r.NormFloat64()*0.05, r.NormFloat64()*1e-3*scale, 1e-6*scale*scale
	}
	return x
}

// train goes on for some steps; the first frozen weights do not move.
func (x *network) train(r *rand.Rand, steps, frozen int) {
	for range steps {
		for i := frozen; i < len(x.w); i++ {
			g := r.NormFloat64() * math.Sqrt(x.v[i])
			x.m[i] = 0.9*x.m[i] + 0.1*g
			x.v[i] = 0.999*x.v[i] + 0.001*g*g
			x.w[i] -= 3e-4 * x.m[i] / (math.Sqrt(x.v[i]) + 1e-8)
		}
	}
}

func float32s(parts ...[]float64) string {
	var b bytes.Buffer
	for _, p := range parts {
		for _, f := range p {
			_ = binary.Write(&b, binary.LittleEndian, float32(f)) // a Buffer never fails
		}
	}
	return b.String()
}

// TestResultsArchiveSample archives three runs of six checkpoints each on a real S3 server, switching one
// saving on after the other.
func TestResultsArchiveSample(t *testing.T) {
	const n = 150_000
	rows := []benchtable.Row{}
	var before int64
	for _, c := range []struct {
		name   string
		drop   bool
		frozen int
	}{
		{"packed, all files kept", false, 0}, {"packed, optimizer state dropped", true, 0}, {"packed, optimizer state dropped, a frozen trunk of half the weights", true, n / 2},
	} {
		w := newWorld(t)
		w.archivePolicy(t)
		if !c.drop {
			w.keepFiles(t)
		}
		r := rand.New(rand.NewPCG(5, 5))
		before = 0
		trunk := newNetwork(r, n)
		for run := range 3 {
			x := newNetwork(r, n)
			copy(x.w[:c.frozen], trunk.w)
			for step := range 6 {
				x.train(r, 10, c.frozen)
				weights, state := float32s(x.w), float32s(x.m, x.v)
				before += int64(len(weights) + len(state))
				w.registry.Commit(t, id(run*6+step), fmt.Sprintf("run%d", run), time.Duration(40-step)*time.Hour, 1, weights, state)
			}
		}
		sweepID := w.open(t, nil)
		if _, err := w.sweeper(t, nil).Run(t.Context(), sweepID); err != nil {
			t.Fatal(err)
		}
		work, err := w.store.AllWork(t.Context(), sweepID)
		if err != nil {
			t.Fatal(err)
		}
		done := 0
		for _, o := range work {
			if o.Phase == retention.PhaseDone {
				done++
			}
		}
		var after int64
		for o, err := range w.bucket.List(t.Context(), "") {
			if err != nil {
				t.Fatal(err)
			}
			after += o.Size
		}
		// keep_top keeps five of the six of each run; the sixth is kept too, nothing is dropped by rank here.
		rows = append(rows, benchtable.Row{What: c.name + ": left of the bytes", Ours: benchtable.Of("%", 100*float64(after)/float64(before)), Note: fmt.Sprintf("%d of 18 archived", done)})
		if done != 18 {
			t.Errorf("%s: %d archived", c.name, done)
		}
	}
	benchtable.Section{
		Page: "janitor.md", Title: "Archive of a sample on a real S3 server", Command: "make bench ONLY=services/checkpoint-janitor RESULTS=TestResultsArchiveSample",
		Intro: fmt.Sprintf("Three runs of six checkpoints ten steps apart, %.0f MB, archived by the real sweep: verified, packed, uploaded, read back and compared, switched, hot bytes removed.", float64(before)/1e6),
		Rows:  rows,
	}.Write(t)
}
