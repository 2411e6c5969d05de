package learner

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/market"
)

// Adam's constants; the learning rate comes with each update.
const (
	adamBeta1   = 0.9
	adamBeta2   = 0.999
	adamEpsilon = 1e-5
)

// Learner trains one specialist. It is used by one goroutine at a time; Close
// ends its workers.
type Learner struct {
	cfg    Config
	world  *market.World
	kernel *kernel.Set
	net    *net
	pool   *pool

	params, wt   []float32
	adamM, adamV []float32
	adamSteps    uint64
	adamStep     kernel.AdamStep

	shards  [Shards]*shard
	shuffle *rand.PCG
	rng     *rand.Rand

	// The rollout, index step*Envs+env.
	obs     []float32
	bars    []int32
	action  []int8
	logp    []float32
	value   []float32
	reward  []float32
	done    []bool
	adv     []float32
	target  []float32
	last    []float32 // value after the last step, per env
	order   []int32
	policy  greedy
	current batch
	noise   []float32 // standard deviation of the noise per feature, in the kernel's units
}

// shard is one fixed part of the parallel work.
type shard struct {
	src      *rand.PCG
	rng      *rand.Rand
	envs     []market.Env
	ws       *workspace
	seeds    [blockRows]uint64 // of the noise
	grad     []float32
	used     bool // grad holds something
	sums     lossSums
	rewards  float64
	episodes int
}

// batch is the part of the rollout that an update is working on.
type batch struct {
	rows    []int32
	block   int // number of the first block within the optimiser step
	weights kernel.LossWeights
}

// New builds a learner. The configuration must have passed Check.
func New(world *market.World, cfg Config) (*Learner, error) {
	k, err := kernel.Named(cfg.Kernel)
	if err != nil {
		return nil, err
	}
	if p := cfg.Check(); len(p) > 0 {
		return nil, fmt.Errorf("learner: %v", p)
	}
	n := cfg.Envs * cfg.Steps
	l := &Learner{
		cfg: cfg, world: world, kernel: k, net: newNet(cfg.Hidden, cfg.Temporal, len(world.Scaler.Mean)),
		obs: make([]float32, n*market.ObservationWidth), bars: make([]int32, n), action: make([]int8, n), logp: make([]float32, n),
		value: make([]float32, n), reward: make([]float32, n), done: make([]bool, n),
		adv: make([]float32, n), target: make([]float32, n), last: make([]float32, cfg.Envs), order: make([]int32, n),
	}
	l.params = make([]float32, l.net.size)
	l.wt = make([]float32, l.net.wtSize)
	l.adamM = make([]float32, l.net.size)
	l.adamV = make([]float32, l.net.size)
	// Every random stream has its own number, so that none depends on how much
	// another has drawn.
	l.net.initialise(l.params, rand.New(rand.NewPCG(cfg.Seed, 1)))
	l.net.transpose(l.kernel, l.wt, l.params)
	l.shuffle = rand.NewPCG(cfg.Seed, 2)
	l.rng = rand.New(l.shuffle)
	features := len(world.Scaler.Mean)
	l.noise = make([]float32, kernel.Pad(features))
	for j := range features {
		// The kernel sums four uniforms on 0..65535, each of variance (65536^2-1)/12.
		l.noise[j] = float32(cfg.FeatureNoise) / 37837.23
	}
	per := cfg.Envs / Shards
	for i := range l.shards {
		s := &shard{src: rand.NewPCG(cfg.Seed, uint64(100+i)), envs: make([]market.Env, per),
			ws: l.net.newWorkspace(), grad: make([]float32, l.net.size)}
		s.rng = rand.New(s.src)
		for e := range s.envs {
			world.Reset(&s.envs[e], s.rng)
		}
		l.shards[i] = s
	}
	l.policy = greedy{l: l, params: l.params, wt: l.wt, ws: l.net.newWorkspace()}
	l.pool = newPool(min(max(cfg.Workers, 1), Shards), l.collectShard, l.gradientShard)
	return l, nil
}

// Close ends the workers.
func (l *Learner) Close() { l.pool.close() }

// Kernel returns the name of the vector form in use.
func (l *Learner) Kernel() string { return l.kernel.Name() }

// Config returns the configuration.
func (l *Learner) Config() Config { return l.cfg }

// Hidden returns the widths of the trunk.
func (l *Learner) Hidden() []int { return l.cfg.Hidden }

// Transitions returns the number of environment steps of one Collect.
func (l *Learner) Transitions() int { return l.cfg.Envs * l.cfg.Steps }

// Rollout sums up one Collect.
type Rollout struct {
	// MeanReward is per step.
	MeanReward float64
	Episodes   int
}

// Collect walks all environments Steps bars with the current policy.
func (l *Learner) Collect() Rollout {
	l.pool.run(phaseCollect)
	var r Rollout
	for _, s := range l.shards {
		r.MeanReward += s.rewards
		r.Episodes += s.episodes
	}
	r.MeanReward /= float64(l.Transitions())
	return r
}

func (l *Learner) collectShard(index int) {
	s, per, all := l.shards[index], l.cfg.Envs/Shards, l.cfg.Envs
	s.rewards, s.episodes = 0, 0
	for t := range l.cfg.Steps {
		base := t*all + index*per
		for from := 0; from < per; from += blockRows {
			l.act(s, from, base+from, min(blockRows, per-from))
		}
	}
	for from := 0; from < per; from += blockRows {
		rows := min(blockRows, per-from)
		stride := l.net.layers[0].inPad
		for r := range rows {
			e := &s.envs[from+r]
			l.world.Observe(e, s.ws.x[r*stride:])
			l.net.recall(l.world, s.ws, r, e.Bar)
		}
		l.net.forward(l.kernel, l.params, l.wt, s.ws, s.ws.x, rows)
		out, _ := s.ws.last()
		for r := range rows {
			l.last[index*per+from+r] = out[r*heads+heads-1]
		}
	}
}

// act takes one step of a block of a shard's environments, the first of which is
// number from; the transitions begin at number at.
func (l *Learner) act(s *shard, from, at, rows int) {
	const width = market.ObservationWidth
	obs := l.obs[at*width : (at+rows)*width]
	for r := range rows {
		e := &s.envs[from+r]
		l.world.Observe(e, obs[r*width:(r+1)*width])
		l.bars[at+r] = e.Bar
	}
	// Noise on training observations: a few hundred bars seen thousands of times
	// would otherwise be learned by heart.
	if l.cfg.FeatureNoise > 0 {
		for r := range rows {
			s.seeds[r] = s.src.Uint64()
		}
		l.kernel.Noise(obs, width, l.noise, s.seeds[:rows])
	}
	x := obs
	if l.net.conv != nil {
		x = s.ws.x
		for r := range rows {
			l.net.observe(l.world, s.ws, r, l.bars[at+r], obs[r*width:(r+1)*width])
		}
	}
	l.net.forward(l.kernel, l.params, l.wt, s.ws, x, rows)
	out, _ := s.ws.last()
	l.kernel.Odds(out, s.ws.odds[:(rows+15)/16])
	for r := range rows {
		i, e, o, k := at+r, &s.envs[from+r], &s.ws.odds[r/16], kernel.Slot(r)
		u := float32(s.src.Uint64()>>40) * 0x1p-24
		a := int8(2)
		if u < o.First[k] {
			a = 0
		} else if u < o.Second[k] {
			a = 1
		}
		step := l.world.Step(e, a)
		l.action[i], l.logp[i], l.value[i] = a, o.Logp[a][k], o.Value[k]
		l.reward[i], l.done[i] = float32(step.Reward), step.Done
		s.rewards += step.Reward
		if step.Done {
			s.episodes++
			l.world.Reset(e, s.rng)
		}
	}
}

// Rates are what a schedule changes from update to update.
type Rates struct {
	LearningRate float64
	Entropy      float64 // weight of the entropy bonus
}

// Losses are the means over one Update.
type Losses struct {
	Policy, Value, Entropy, KL, Clipped float64
	GradientNorm                        float64 // before clipping, mean over the steps
	OptimiserSteps                      int
}

// Finite reports whether the numbers are still numbers.
func (l Losses) Finite() bool {
	sum := l.Policy + l.Value + l.Entropy + l.KL + l.GradientNorm
	return !math.IsNaN(sum) && !math.IsInf(sum, 0)
}

// Update learns from the rollout of the last Collect. A gradient that is not
// finite is not applied: the losses say so and the caller decides.
func (l *Learner) Update(r Rates) Losses {
	advantages(l.cfg.Gamma, l.cfg.Lambda, l.cfg.Envs, l.reward, l.value, l.done, l.last, l.adv, l.target)
	normalise(l.adv)
	var sums lossSums
	var norms float64
	steps := 0
	n := len(l.order)
	part := (l.cfg.BatchRows + l.cfg.Accumulation - 1) / l.cfg.Accumulation
	l.current.weights.Set(l.cfg.Clip, l.cfg.ValueWeight, r.Entropy)
	for range l.cfg.Passes {
		for i := range l.order {
			l.order[i] = int32(i)
		}
		for i := n - 1; i > 0; i-- {
			j := l.rng.IntN(i + 1)
			l.order[i], l.order[j] = l.order[j], l.order[i]
		}
		for from := 0; from < n; from += l.cfg.BatchRows {
			rows := l.order[from:min(from+l.cfg.BatchRows, n)]
			for at := 0; at < len(rows); at += part {
				l.current.rows = rows[at:min(at+part, len(rows))]
				l.current.block = at / blockRows
				l.pool.run(phaseGradient)
			}
			for _, s := range l.shards {
				sums.add(&s.sums)
				s.sums = lossSums{}
			}
			norm := l.step(r.LearningRate, len(rows))
			norms += norm
			steps++
			if math.IsNaN(norm) || math.IsInf(norm, 0) {
				return losses(&sums, norms, steps)
			}
		}
	}
	return losses(&sums, norms, steps)
}

func losses(s *lossSums, norms float64, steps int) Losses {
	n := float64(s.rows)
	return Losses{Policy: s.policy / n, Value: s.value / n, Entropy: s.entropy / n, KL: s.kl / n,
		Clipped: s.clipped / n, GradientNorm: norms / float64(steps), OptimiserSteps: steps}
}

// gradientShard adds the gradients of every Shards-th block of the current part.
// Blocks are numbered through the whole optimiser step, so that accumulation
// changes neither who adds a block nor when.
func (l *Learner) gradientShard(index int) {
	s, b := l.shards[index], &l.current
	ws := s.ws
	for k := 0; k*blockRows < len(b.rows); k++ {
		if (b.block+k)%Shards != index {
			continue
		}
		rows := b.rows[k*blockRows : min((k+1)*blockRows, len(b.rows))]
		l.kernel.Gather(ws.x, l.net.layers[0].inPad, l.obs, market.ObservationWidth, rows)
		for r, i := range rows {
			l.net.recall(l.world, ws, r, l.bars[i])
			ws.place(r, l.action[i], l.logp[i], l.adv[i], l.target[i])
		}
		l.net.forward(l.kernel, l.params, l.wt, ws, ws.x, len(rows))
		out, grad := ws.last()
		l.kernel.Loss(out, grad, ws.samples[:ws.groups(len(rows))], &b.weights, &ws.sums)
		s.sums.take(&ws.sums, len(rows))
		if !s.used {
			clear(s.grad)
			s.used = true
		}
		l.net.backward(l.kernel, l.params, l.wt, s.grad, ws, len(rows), l.cfg.FreezeTrunk)
	}
}

// step reduces the shards' gradients in order, clips and takes an Adam step. It
// returns the norm of the mean gradient.
func (l *Learner) step(rate float64, rows int) float64 {
	var total []float32
	for _, s := range l.shards {
		if !s.used {
			continue
		}
		s.used = false
		if total == nil {
			total = s.grad
		} else {
			l.kernel.Add(total, s.grad)
		}
	}
	trained := 0
	if l.cfg.FreezeTrunk {
		trained = l.net.trunkSize()
	}
	norm := math.Sqrt(l.kernel.SumSquares(total[trained:], &l.shards[0].ws.lanes)) / float64(rows)
	if math.IsNaN(norm) || math.IsInf(norm, 0) {
		return norm
	}
	scale := 1 / float64(rows)
	if norm > l.cfg.MaxGradientNorm {
		scale *= l.cfg.MaxGradientNorm / norm
	}
	l.adamSteps++
	c1, c2 := 1-powInt(adamBeta1, l.adamSteps), 1-powInt(adamBeta2, l.adamSteps)
	// A field, as a local would escape through the kernel's function value.
	l.adamStep = kernel.AdamStep{
		GradientScale: float32(scale), Beta1: adamBeta1, OneLessBeta1: 1 - adamBeta1, Beta2: adamBeta2,
		OneLessBeta2: 1 - adamBeta2, RootScale: float32(1 / math.Sqrt(c2)), Epsilon: adamEpsilon, Rate: float32(rate / c1),
	}
	// Weight decay spares biases and heads. It is part of the same pass over the weights.
	keep := float32(1 - rate*l.cfg.WeightDecay)
	if c := l.net.conv; c != nil && trained == 0 {
		l.adam(total, c.w, c.b, keep)
		l.adam(total, c.b, c.b+c.Channels, 1)
	}
	last := len(l.net.layers) - 1
	for i := range l.net.layers {
		switch layer := &l.net.layers[i]; {
		case i == last:
			l.adam(total, layer.w, layer.end, 1)
		case trained == 0:
			l.adam(total, layer.w, layer.b, keep)
			l.adam(total, layer.b, layer.end, 1)
		}
	}
	l.net.transpose(l.kernel, l.wt, l.params)
	return norm
}

// adam updates the parameters from to to.
func (l *Learner) adam(grad []float32, from, to int, keep float32) {
	l.adamStep.Keep = keep
	l.kernel.Adam(l.params[from:to], grad[from:to], l.adamM[from:to], l.adamV[from:to], &l.adamStep)
}

// powInt is base^n by squaring: math.Pow may take another path per architecture.
func powInt(base float64, n uint64) float64 {
	out := 1.0
	for ; n > 0; n >>= 1 {
		if n&1 == 1 {
			out = float64(out * base)
		}
		base = float64(base * base)
	}
	return out
}
