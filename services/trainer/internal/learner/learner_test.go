package learner

import (
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/markettest"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/reward"
)

func newWorld(t testing.TB) *market.World {
	t.Helper()
	return worldOf(t, markettest.SyntheticTable(1, 1500))
}

func worldOf(t testing.TB, table *market.Table) *market.World {
	t.Helper()
	w, problems := market.NewWorld(table, market.WorldOptions{Specialist: market.RegimeBull,
		Split: market.DefaultSplit(), Costs: market.Costs{CommissionBP: 1, SlippageBP: 1}, Reward: reward.Default(reward.RiskAdjusted)})
	if problems != nil {
		t.Fatal(problems)
	}
	return w
}

func small() Config {
	c := Default()
	c.Hidden, c.Envs, c.Steps, c.BatchRows, c.Passes, c.Seed = []int{24, 40}, 16, 40, 512, 2, 7
	c.FeatureNoise = 0.1
	return c
}

func newLearner(t testing.TB, w *market.World, c Config) *Learner {
	t.Helper()
	l, err := New(w, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

var rates = Rates{LearningRate: 1e-3, Entropy: 0.01}

// TestGradientsByFiniteDifferences checks the whole backward pass, loss included,
// on every parameter of a small network with two hidden layers, without and with a
// convolution whose filters overlap.
func TestGradientsByFiniteDifferences(t *testing.T) {
	t.Parallel()
	const features = 6
	for name, shape := range map[string]Temporal{"dense": {}, "temporal": {Bars: 7, Width: 3, Stride: 2, Channels: 16}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			checkGradients(t, newNet([]int{5, 7}, shape, features))
		})
	}
}

func checkGradients(t *testing.T, n *net) {
	rng := rand.New(rand.NewPCG(3, 3))
	params := make([]float32, n.size)
	n.initialise(params, rng)
	for _, l := range n.layers { // logits and biases of a normal size
		for i := l.b; i < l.b+l.out; i++ {
			params[i] = float32(0.3 * rng.NormFloat64())
		}
	}
	head := n.layers[2]
	for r := range head.in {
		for c := range head.out {
			params[head.at(r, c)] = float32(0.5 * rng.NormFloat64())
		}
	}
	const rows = 9
	ws := n.newWorkspace()
	for r := range rows {
		for i := range min(n.layers[0].used, market.ObservationWidth) {
			ws.x[r*n.layers[0].inPad+i] = float32(rng.NormFloat64())
		}
	}
	if c := n.conv; c != nil {
		for i := range rows * c.row() {
			if i%c.width < c.features {
				ws.past[i] = float32(rng.NormFloat64())
			}
		}
	}
	for i := range rows {
		ws.place(i, int8(i%3), float32(-1-0.3*rng.Float64()), float32(rng.NormFloat64()), float32(rng.NormFloat64()))
	}
	k, err := kernel.Named("portable")
	if err != nil {
		t.Fatal(err)
	}
	grad, wt := make([]float32, n.size), make([]float32, n.wtSize)
	weights := new(kernel.LossWeights)
	weights.Set(0.2, 0.5, 0.05)
	groups := ws.groups(rows)
	total := func() float64 {
		n.transpose(k, wt, params)
		n.forward(k, params, wt, ws, ws.x, rows)
		out, grad := ws.last()
		k.Loss(out, grad, ws.samples[:groups], weights, &ws.sums)
		var sums lossSums
		sums.take(&ws.sums, rows)
		return sums.policy + 0.5*sums.value - 0.05*sums.entropy
	}
	total()
	n.backward(k, params, wt, grad, ws, rows, false)
	const h = 2e-3
	checked, kinks := 0, 0
	type span struct{ from, weights, to, width, used int }
	var spans []span
	if c := n.conv; c != nil {
		spans = append(spans, span{c.w, c.b, c.b + c.Channels, c.Channels, c.Channels})
		for tap := range c.Width {
			for i := c.w + (tap*c.width+c.features)*c.Channels; i < c.w+(tap+1)*c.width*c.Channels; i++ {
				if grad[i] != 0 {
					t.Fatalf("the padding of the features has gradient %v", grad[i])
				}
			}
		}
	}
	for _, l := range n.layers {
		if l.heads {
			spans = append(spans, span{l.w, l.b, l.b + l.out, l.inPad, l.in})
			continue
		}
		spans = append(spans, span{l.w, l.b, l.b + l.out, l.outPad, l.out})
	}
	for _, l := range spans {
		for i := l.from; i < l.to; i++ {
			if i < l.weights && (i-l.from)%l.width >= l.used {
				if grad[i] != 0 {
					t.Fatalf("the padding has gradient %v", grad[i])
				}
				continue
			}
			was := params[i]
			params[i] = was + h
			up := total()
			params[i] = was - h
			down := total()
			params[i] = was
			numeric := (up - down) / (2 * h)
			checked++
			if diff := math.Abs(numeric - float64(grad[i])); diff > 2e-3+0.02*math.Abs(numeric) {
				kinks++ // a step may cross a ReLU or the clip
			}
		}
	}
	if kinks > checked/50 {
		t.Errorf("%d of %d gradients differ from finite differences", kinks, checked)
	}
}

func TestAdvantagesByHand(t *testing.T) {
	t.Parallel()
	// Two environments; the first ends an episode after its first step.
	reward := []float32{1, 2, 3, 4}
	value := []float32{0.5, 1, 1.5, 2}
	done := []bool{true, false, false, false}
	adv, target := make([]float32, 4), make([]float32, 4)
	advantages(0.5, 0.5, 2, reward, value, done, []float32{8, 6}, adv, target)
	d0, d2 := 1-0.5, 3+0.5*8-1.5
	d3 := 4 + 0.5*6 - 2.0
	d1 := 2 + 0.5*2 - 1 + 0.25*d3
	for i, want := range []float64{d0, d1, d2, d3} {
		if math.Abs(float64(adv[i])-want) > 1e-6 || math.Abs(float64(target[i])-want-float64(value[i])) > 1e-6 {
			t.Errorf("step %d: advantage %v, target %v, want %v", i, adv[i], target[i], want)
		}
	}
}

// train runs three epochs and returns everything that could differ.
func train(t *testing.T, w *market.World, c Config) ([]float32, []byte, []Losses) {
	l := newLearner(t, w, c)
	var all []Losses
	for range 3 {
		l.Collect()
		all = append(all, l.Update(rates))
	}
	state, err := l.State()
	if err != nil {
		t.Fatal(err)
	}
	return append([]float32(nil), l.params...), state, all
}

// TestSameSeedSameBits over worker counts, vector widths and accumulation.
func TestSameSeedSameBits(t *testing.T) {
	t.Parallel()
	t.Run("dense", func(t *testing.T) {
		t.Parallel()
		sameBits(t, small)
	})
	t.Run("temporal", func(t *testing.T) {
		t.Parallel()
		sameBits(t, temporal)
	})
}

// temporal is small with a convolution.
func temporal() Config {
	c := small()
	c.Temporal = Temporal{Bars: 6, Width: 3, Stride: 1, Channels: 16}
	return c
}

func sameBits(t *testing.T, small func() Config) {
	w := newWorld(t)
	params, state, all := train(t, w, small())
	for name, change := range map[string]func(*Config){
		"again":                    func(*Config) {},
		"two workers":              func(c *Config) { c.Workers = 2 },
		"three workers":            func(c *Config) { c.Workers = 3 },
		"portable kernel":          func(c *Config) { c.Kernel = "portable" },
		"second-best kernel":       func(c *Config) { c.Kernel = kernel.Names()[min(1, len(kernel.Names())-1)] },
		"accumulation of two":      func(c *Config) { c.Accumulation = 2 },
		"accumulation of four":     func(c *Config) { c.Accumulation = 4 },
		"all of that":              func(c *Config) { c.Accumulation, c.Workers, c.Kernel = 4, 4, "portable" },
		"more workers than shards": func(c *Config) { c.Workers = 99 },
	} {
		c := small()
		change(&c)
		p, s, losses := train(t, w, c)
		if !reflect.DeepEqual(p, params) || !reflect.DeepEqual(s, state) || !reflect.DeepEqual(losses, all) {
			t.Errorf("%s: another result", name)
		}
	}
	other := small()
	other.Seed++
	if p, _, _ := train(t, w, other); reflect.DeepEqual(p, params) {
		t.Error("another seed gives the same weights")
	}
}

// TestLearns: on a market whose drift persists the policy earns more than it did.
func TestLearns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := small()
	c.FeatureNoise = 0
	l := newLearner(t, w, c)
	first := l.Collect().MeanReward
	l.Update(rates)
	var last float64
	for range 60 {
		last = l.Collect().MeanReward
		l.Update(rates)
	}
	if last < first+0.1 {
		t.Errorf("mean reward %v at first, %v at last", first, last)
	}
}

func TestStateRoundTrip(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	small := temporal
	a := newLearner(t, w, small())
	a.Collect()
	a.Update(rates)
	state, err := a.State()
	if err != nil {
		t.Fatal(err)
	}
	b := newLearner(t, w, small())
	if err := b.SetTensors(a.Tensors()); err != nil {
		t.Fatal(err)
	}
	if err := b.SetState(state, true); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ra, rb := a.Collect(), b.Collect(); ra != rb {
			t.Fatalf("rollouts differ: %+v and %+v", ra, rb)
		}
		if la, lb := a.Update(rates), b.Update(rates); la != lb {
			t.Fatalf("losses differ: %+v and %+v", la, lb)
		}
	}
	if !reflect.DeepEqual(a.params, b.params) {
		t.Error("weights differ")
	}
	other := small()
	other.BatchRows = 256
	if err := newLearner(t, w, other).SetState(state, true); err == nil {
		t.Error("a state of another configuration was taken")
	}
	for cut := 0; cut < len(state); cut += 997 {
		if err := newLearner(t, w, small()).SetState(state[:cut], true); err == nil {
			t.Fatalf("a state cut at %d was taken", cut)
		}
	}
}

// TestATrunkOfAnother: the trunk is taken, the heads stay; a frozen one does not
// move while the heads learn.
func TestATrunkOfAnother(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	donor := newLearner(t, w, temporal())
	donor.Collect()
	donor.Update(rates)
	c := temporal()
	c.Seed, c.FreezeTrunk = 99, true
	l := newLearner(t, w, c)
	heads := l.net.trunkSize()
	fresh := slices.Clone(l.params)
	if err := l.SetTrunk(donor.Tensors()); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(l.params[:heads], donor.params[:heads]) || !reflect.DeepEqual(l.params[heads:], fresh[heads:]) {
		t.Fatal("another mix of weights")
	}
	l.Collect()
	l.Update(rates)
	if !reflect.DeepEqual(l.params[:heads], donor.params[:heads]) {
		t.Error("a frozen trunk moved")
	}
	if reflect.DeepEqual(l.params[heads:], fresh[heads:]) {
		t.Error("the heads did not learn")
	}
	if err := newLearner(t, w, small()).SetTrunk(donor.Tensors()); err == nil {
		t.Error("a trunk of another shape was taken")
	}
}

func TestSetTensorsRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := newLearner(t, w, small())
	wide := small()
	wide.Hidden = []int{32, 40}
	if err := l.SetTensors(newLearner(t, w, wide).Tensors()); err == nil {
		t.Error("another shape was taken")
	}
	if err := l.SetTensors(l.Tensors()[1:]); err == nil {
		t.Error("a missing tensor was not noticed")
	}
	l.params[0] = float32(math.NaN())
	if l.Finite() {
		t.Error("a NaN weight counts as finite")
	}
	if err := newLearner(t, w, small()).SetTensors(l.Tensors()); err == nil {
		t.Error("a NaN weight was taken")
	}
}

// TestExplodingGradientIsReported, not applied.
func TestExplodingGradientIsReported(t *testing.T) {
	t.Parallel()
	l := newLearner(t, newWorld(t), small())
	l.Collect()
	l.reward[3] = float32(math.Inf(1))
	before := append([]float32(nil), l.params...)
	if l.Update(rates).Finite() {
		t.Error("the losses look finite")
	}
	if !reflect.DeepEqual(before, l.params) {
		t.Error("a gradient that is not finite was applied")
	}
}

func TestSteadyLoopAllocatesNothing(t *testing.T) {
	w := newWorld(t)
	for workers, c := range map[int]Config{1: temporal(), 2: small()} {
		c.Workers = workers
		l := newLearner(t, w, c)
		l.Collect()
		l.Update(rates)
		if n := testing.AllocsPerRun(3, func() {
			l.Collect()
			l.Update(rates)
		}); n != 0 {
			t.Errorf("%d workers: %v allocations per epoch", workers, n)
		}
	}
}

func TestConfigProblemsComeTogether(t *testing.T) {
	t.Parallel()
	c := Config{Hidden: []int{0}, Envs: 3, Kernel: "abacus", Gamma: 2, ValueWeight: math.NaN()}
	if p := c.Check(); len(p) < 10 {
		t.Errorf("only %v", p)
	}
	d := Default()
	if p := d.Check(); p != nil {
		t.Errorf("the default has problems: %v", p)
	}
}
