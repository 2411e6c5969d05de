//go:build failpoints

package failpoint

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
)

// trap is where the process ends, and after how many passes.
type trap struct {
	point Point
	left  atomic.Int64
}

var armed = sync.OnceValue(func() *trap {
	name, count, _ := strings.Cut(os.Getenv("TRAINYARD_FAILPOINT"), ":")
	n, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		n = 1
	}
	t := &trap{point: Point(name)}
	t.left.Store(n)
	return t
})

// Hit is reached.
func Hit(p Point) {
	if t := armed(); p == t.point && t.left.Add(-1) == 0 {
		_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {} // nothing more happens while the signal is on its way
	}
}

// Store puts points around what a store does.
func Store(s cycle.Store) cycle.Store { return &store{s} }

type store struct{ cycle.Store }

func (s *store) Lead(ctx context.Context, holder string, ttl time.Duration) (uint64, error) {
	term, err := s.Store.Lead(ctx, holder, ttl)
	if err == nil {
		Hit(AfterLead)
	}
	return term, err
}

func (s *store) Load(ctx context.Context) (cycle.World, error) {
	w, err := s.Store.Load(ctx)
	Hit(AfterLoad)
	return w, err
}

func (s *store) Fences(ctx context.Context, n int) ([]uint64, error) {
	out, err := s.Store.Fences(ctx, n)
	Hit(AfterFences)
	return out, err
}

func (s *store) Commit(ctx context.Context, term uint64, c cycle.Changes) error {
	Hit(BeforeCommit)
	err := s.Store.Commit(ctx, term, c)
	Hit(AfterCommit)
	return err
}
