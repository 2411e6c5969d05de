package mlflowmirror

import (
	"sync"
	"time"
)

// breaker leaves a server alone that does not answer. One lane's failure may be its own;
// several in a row are the server's.
type breaker struct {
	first, most time.Duration

	mu       sync.Mutex
	failures int
	until    time.Time
}

const breakerFailures = 5

func (b *breaker) succeed() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = 0
}

func (b *breaker) fail(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures++; b.failures >= breakerFailures {
		b.until = now.Add(min(b.first<<min(b.failures-breakerFailures, 20), b.most))
	}
}

// rest is how long the server is to be left alone; 0 means not at all.
func (b *breaker) rest(now time.Time) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakerFailures {
		return 0
	}
	return max(b.until.Sub(now), 0)
}

// probing reports whether the next request decides between open and closed.
func (b *breaker) probing() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures >= breakerFailures
}
