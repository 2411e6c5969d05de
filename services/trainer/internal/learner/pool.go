package learner

import "sync"

// phase is one kind of parallel work.
type phase uint8

const (
	phaseCollect phase = iota
	phaseGradient
)

// pool runs a phase over all shards. With one worker it is a plain loop; with
// more, worker w takes the shards w, w+workers, ... so that who does what never
// depends on timing. Starting a phase allocates nothing.
type pool struct {
	phases  [2]func(shard int)
	workers int
	start   []chan phase
	wait    sync.WaitGroup
	ended   sync.WaitGroup
}

func newPool(workers int, collect, gradient func(shard int)) *pool {
	p := &pool{phases: [2]func(int){collect, gradient}, workers: workers}
	for w := 1; w < workers; w++ {
		c := make(chan phase)
		p.start = append(p.start, c)
		p.ended.Go(func() {
			for ph := range c {
				p.share(ph, w)
				p.wait.Done()
			}
		})
	}
	return p
}

func (p *pool) share(ph phase, worker int) {
	for s := worker; s < Shards; s += p.workers {
		p.phases[ph](s)
	}
}

// run returns when every shard is done. The calling goroutine is worker 0.
func (p *pool) run(ph phase) {
	p.wait.Add(len(p.start))
	for _, c := range p.start {
		c <- ph
	}
	p.share(ph, 0)
	p.wait.Wait()
}

func (p *pool) close() {
	for _, c := range p.start {
		close(c)
	}
	p.ended.Wait()
	p.start = nil
	p.workers = 1
}
