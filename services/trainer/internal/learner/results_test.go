//go:build results

package learner

import (
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/torchtest"
)

// measured runs step for a while and returns its rate per processor second.
func measured(t *testing.T, step func() int) float64 {
	t.Helper()
	step()
	began, n := torchtest.ProcessorTime(t), 0
	for until := time.Now().Add(time.Second); time.Now().Before(until); {
		n += step()
	}
	return float64(n) / (torchtest.ProcessorTime(t) - began)
}

const rounds = 3

// TestResultsUpdate is one optimiser step beside PyTorch's.
func TestResultsUpdate(t *testing.T) {
	torchtest.Python(t)
	w := newWorld(t)
	batches := []int{32, 256, 2048}
	ours := map[string][]float64{}
	peers := map[int][]float64{}
	version := ""
	for range rounds {
		var peer map[string]any
		torchtest.Script(t, &peer, "pytorch_update.py", "1")
		version = fmt.Sprintf("PyTorch %v, %v", peer["torch"], peer["simd"])
		for _, batch := range batches {
			peers[batch] = append(peers[batch], peer[strconv.Itoa(batch)].(float64)/1000)
			for _, name := range kernel.Names() {
				if name == "portable" {
					continue
				}
				c := Default()
				c.Kernel, c.BatchRows, c.Passes = name, batch, 1
				c.Envs, c.Steps = 128, 16
				l := newLearner(t, w, c)
				l.Collect()
				rate := measured(t, func() int { l.Update(rates); return l.Transitions() })
				key := fmt.Sprint(name, batch)
				ours[key] = append(ours[key], rate/1000)
			}
		}
	}
	s := benchtable.Section{
		Page: "trainer.md", Title: "One optimiser step beside PyTorch", Command: "services/trainer/bench/setup && make bench ONLY=services/trainer RESULTS=TestResultsUpdate",
		Intro: "MLP 64-128-128-(3+1): forward, PPO loss, backward, gradient clipping, AdamW, on one thread. Thousands of samples per processor second; both sides in turn.",
		Notes: []string{"The 3x were set against PyTorch 1.13 with OpenBLAS (121 to 156 k/s). Version 2.15 brings MKL and oneDNN and is twice as fast where it has the core to itself; beside other work it loses far more than our small working set (3.5x were measured at a load of 24). A step is 134 kFLOP a sample: 682 k/s are 91 GFLOP/s, PyTorch does 47, and a Zen 4 core has about 118 (two 256-bit FMA a cycle at 3.7 GHz), so three times PyTorch is more than the core has. At most a quarter is left to be had: packing, and the tails of small matrices."},
	}
	for _, batch := range batches {
		for _, name := range kernel.Names() {
			if name == "portable" {
				continue
			}
			asked := ""
			switch {
			case batch == 2048 && name == "avx512":
				asked = ">= 3x"
			case batch == 2048:
				asked = ">= 2x"
			case batch == 32:
				asked = ">= 10x"
			}
			row := benchtable.Row{What: fmt.Sprintf("batch %d, %s", batch, name), Asked: asked,
				Ours: benchtable.Of("k/s", ours[fmt.Sprint(name, batch)]...), Peer: benchtable.Of("k/s", peers[batch]...), PeerName: version}
			s.Rows = append(s.Rows, row)
		}
	}
	s.Write(t)
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
		ours = append(ours, measured(t, func() int { l.Collect(); return l.Transitions() })/1000)
	}
	row := func(what, asked, name string, peer []float64) benchtable.Row {
		r := benchtable.Row{What: what, Asked: asked, Ours: benchtable.Of("k steps/s", ours...), Peer: benchtable.Of("k steps/s", peer...), PeerName: name}
		return r
	}
	benchtable.Section{
		Page: "trainer.md", Title: "Environments and rollout beside Stable-Baselines3", Command: "services/trainer/bench/setup && make bench ONLY=services/trainer RESULTS=TestResultsRollout",
		Intro: "128 environments on the same task, observation noise included in ours, policy forward pass, sampling and buffer. Thousands of environment steps per " +
			"processor second, one thread. The peers step all environments in one numpy call, the fastest form that they take.",
		Rows: []benchtable.Row{
			row("PPO.collect_rollouts, vectorised environment", ">= 10x", "Stable-Baselines3 "+version, sb3),
			row("bare loop without a framework", "", "numpy and PyTorch", plain),
		},
	}.Write(t)
}
