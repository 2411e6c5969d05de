//go:build results

package learner

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/ceiling"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/torchtest"
)

// measured runs step for a while and returns its rate per processor second.
func measured(t *testing.T, step func() float64) float64 {
	t.Helper()
	step()
	began, n := torchtest.ProcessorTime(t), 0.0
	for until := time.Now().Add(700 * time.Millisecond); time.Now().Before(until); {
		n += step()
	}
	return n / (torchtest.ProcessorTime(t) - began)
}

const rounds = 3

// perSample is the floating-point operations of one sample in one step of the
// network 64-128-128-4: forward, weights' gradients, inputs' gradients but the first.
const perSample = 2 * (2*(64*128+128*128+128*4) + 128*128 + 128*4)

// peer is one way to run PyTorch.
type peer struct {
	name string
	torchtest.Peer
	threads, batches string
}

var peers = []peer{
	{"", torchtest.Peer{Venv: "torch"}, "1", "32 256 2048"},
	{" held to AVX2", torchtest.Peer{Venv: "torch", Env: []string{"ATEN_CPU_CAPABILITY=avx2", "ONEDNN_MAX_CPU_ISA=AVX2", "MKL_ENABLE_INSTRUCTIONS=AVX2"}}, "1", "32 256 2048"},
	{" on all cores, as it starts by itself", torchtest.Peer{Venv: "torch", Env: []string{"OMP_NUM_THREADS="}}, "0", "32 2048"},
	{"", torchtest.Peer{Venv: "torch113"}, "1", "32 2048"},
}

// TestResultsUpdate is one optimiser step beside PyTorch's, and beside what the core
// can do.
func TestResultsUpdate(t *testing.T) {
	torchtest.Python(t)
	wide, job := wideWorld(t), newWorld(t)
	ours, theirs, names := map[string][]float64{}, map[string][]float64{}, map[int]string{}
	vectors := kernel.Names()[:len(kernel.Names())-1]
	for range rounds {
		for i, p := range peers {
			if !p.Has(t) {
				continue
			}
			var got map[string]any
			p.Script(t, &got, "pytorch_update.py", append([]string{"0.7", p.threads}, strings.Fields(p.batches)...)...)
			names[i] = fmt.Sprintf("PyTorch %v%s", got["torch"], p.name)
			for _, batch := range strings.Fields(p.batches) {
				key := fmt.Sprint(i, " ", batch)
				theirs[key] = append(theirs[key], got[batch].(float64)/1000)
			}
		}
		for _, name := range vectors {
			ours["ceiling "+name] = append(ours["ceiling "+name], measured(t, func() float64 { return ceiling.Flops(name, 1e6) })/1e9)
			train := func(key string, w *market.World, batch int) {
				c := Default()
				c.Kernel, c.BatchRows, c.Passes = name, batch, 1
				c.Envs, c.Steps = 128, 16
				l := newLearner(t, w, c)
				l.Collect()
				rate := measured(t, func() float64 { l.Update(rates); return float64(l.Transitions()) })
				ours[key] = append(ours[key], rate/1000)
			}
			for _, batch := range []int{32, 256, 2048} {
				train(fmt.Sprint(name, " ", batch), wide, batch)
			}
			train("job "+name, job, 2048)
		}
	}
	s := benchtable.Section{
		Page: "trainer.md", Title: "One optimiser step beside PyTorch", Command: "services/trainer/bench/setup && services/trainer/bench/setup 1.13 && make bench ONLY=services/trainer RESULTS=TestResultsUpdate",
		Intro: "MLP 64-128-128-(3+1), all 64 inputs in use: forward, PPO loss, backward, gradient clipping, AdamW, on one thread. Thousands of samples per processor second; all sides in turn. " +
			"The ceiling is fused multiply-adds on registers alone, in the same process.",
	}
	add := func(what, asked, key string, p int, batch, note string) {
		s.Rows = append(s.Rows, benchtable.Row{What: what, Asked: asked, Ours: benchtable.Of("k/s", ours[key]...), Peer: benchtable.Of("k/s", theirs[fmt.Sprint(p, " ", batch)]...), PeerName: names[p], Note: note})
	}
	for _, batch := range []string{"32", "256", "2048"} {
		for _, name := range vectors {
			asked := map[string]string{"32": ">= 10x", "2048": ">= 3x"}[batch]
			if batch == "2048" && name == "avx2" {
				asked = ">= 2x"
			}
			key, note := name+" "+batch, ""
			if batch == "2048" {
				gflops, most := benchtable.Of("", ours[key]...).Median()*perSample/1e6, benchtable.Of("", ours["ceiling "+name]...).Median()
				note = fmt.Sprintf("%.0f GFLOP/s of %.0f: %.0f %%", gflops, most, 100*gflops/most)
			}
			beside := []int{0, 2, 3}
			if name == "avx2" {
				beside = []int{1, 0}
			}
			for _, i := range beside {
				if names[i] != "" && slices.Contains(strings.Fields(peers[i].batches), batch) {
					add(fmt.Sprintf("batch %s, %s", batch, name), asked, key, i, batch, note)
					asked, note = "", ""
				}
			}
		}
	}
	for _, name := range vectors {
		s.Rows = append(s.Rows, benchtable.Row{What: "batch 2048, " + name + ", the specialists' 22 features: 27 of 64 inputs are ever other than zero", Ours: benchtable.Of("k/s", ours["job "+name]...)})
	}
	for _, name := range vectors {
		s.Rows = append(s.Rows, benchtable.Row{What: "ceiling, " + name, Ours: benchtable.Of("GFLOP/s", ours["ceiling "+name]...)})
	}
	s.Notes = updateNotes(ours, theirs)
	s.Write(t)
}

// updateNotes say what the figures mean.
func updateNotes(ours, theirs map[string][]float64) []string {
	most := benchtable.Of("", ours["ceiling "+kernel.Best().Name()]...).Median()
	peer := benchtable.Of("", theirs["0 2048"]...).Median()
	return []string{fmt.Sprintf("A step is %.0f kFLOP a sample. At the ceiling of %.0f GFLOP/s a core could do %.0f k/s, %.2fx PyTorch: what is asked beyond that needs a core whose 512-bit units do more than its 256-bit ones "+
		"(Zen 4 splits a 512-bit multiply-add into two halves; Intel's servers since Skylake do two whole ones a cycle). The goals were set against PyTorch 1.13 with OpenBLAS.",
		float64(perSample)/1000, most, most*1e6/perSample, most*1e6/perSample/peer)}
}

// TestResultsRollout is the environments with the policy's forward pass.
func TestResultsRollout(t *testing.T) {
	torchtest.Python(t)
	w := newWorld(t)
	var ours, sb3, plain []float64
	version := ""
	for range rounds {
		var peer struct {
			Version    string
			SB3, Numpy float64
		}
		torchtest.Script(t, &peer, "rollout.py", torchtest.History(t), "2")
		version, sb3, plain = peer.Version, append(sb3, peer.SB3/1000), append(plain, peer.Numpy/1000)
		l := newLearner(t, w, Default())
		ours = append(ours, measured(t, func() float64 { l.Collect(); return float64(l.Transitions()) })/1000)
	}
	row := func(what, asked, name string, peer []float64) benchtable.Row {
		r := benchtable.Row{What: what, Asked: asked, Ours: benchtable.Of("k steps/s", ours...), Peer: benchtable.Of("k steps/s", peer...), PeerName: name}
		return r
	}
	benchtable.Section{
		Page: "trainer.md", Title: "Environments and rollout beside Stable-Baselines3", Command: "services/trainer/bench/setup && make bench ONLY=services/trainer RESULTS=TestResultsRollout",
		Intro: "128 environments on the same task, observation noise included in ours, of which the 37 inputs that are always zero cost nothing, policy forward pass, sampling and buffer. Thousands of environment steps per " +
			"processor second, one thread. The peers step all environments in one numpy call, the fastest form that they take.",
		Rows: []benchtable.Row{
			row("PPO.collect_rollouts, vectorised environment", ">= 10x", "Stable-Baselines3 "+version, sb3),
			row("bare loop without a framework", "", "numpy and PyTorch", plain),
		},
	}.Write(t)
}
