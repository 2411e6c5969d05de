package lifecycle

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(s string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, s)
}

func (j *journal) member(name string, drain time.Duration) (string, func(context.Context) error) {
	return name, func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(drain)
		j.add(name)
		return ctx.Err()
	}
}

func TestStopsInReverseOrderEvenWhenLaterOnesAreSlower(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var j journal
		var g Group
		g.OnStop("pool", func(context.Context) error { j.add("pool"); return nil })
		g.Add(j.member("worker", 0))
		g.OnStop("cache", func(context.Context) error { j.add("cache"); return nil })
		g.Add(j.member("server", 5*time.Second))
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if err := g.Run(ctx); err != nil {
			t.Fatalf("Run after a plain cancel: %v, want nil", err)
		}
		want := []string{"server", "cache", "worker", "pool"}
		if !reflect.DeepEqual(j.lines, want) {
			t.Errorf("stop order %v, want %v", j.lines, want)
		}
	})
}

func TestFirstFailureIsTheCause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		boom := errors.New("boom")
		var j journal
		var g Group
		g.Add(j.member("server", 0))
		g.Add("loop", func(context.Context) error { time.Sleep(time.Second); return boom })
		g.Add("late", func(ctx context.Context) error { <-ctx.Done(); return errors.New("a consequence") })
		err := g.Run(t.Context())
		if !errors.Is(err, boom) || !strings.Contains(err.Error(), "loop: boom") {
			t.Errorf("error %v, want the first failure with its member's name", err)
		}
		if strings.Contains(err.Error(), "consequence") {
			t.Errorf("error %v reports a failure that followed the first", err)
		}
	})
}

func TestMembersThatFinishEndTheGroup(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var g Group
		closed := false
		g.OnStop("pool", func(context.Context) error { closed = true; return nil })
		g.Add("a", func(context.Context) error { return nil })
		g.Add("b", func(context.Context) error { time.Sleep(time.Minute); return nil })
		if err := g.Run(t.Context()); err != nil || !closed {
			t.Errorf("Run: %v, pool closed: %v; want nil, true", err, closed)
		}
	})
}

func TestAStuckMemberIsNamedAndTheOthersStillStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var j journal
		g := Group{StopTimeout: 2 * time.Second}
		g.OnStop("pool", func(context.Context) error { j.add("pool"); return nil })
		g.Add("deaf", func(context.Context) error { <-release; return nil })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		err := g.Run(ctx)
		if err == nil || !strings.Contains(err.Error(), "deaf") {
			t.Errorf("error %v, want one that names the stuck member", err)
		}
		if got := time.Since(start); got != 2*time.Second {
			t.Errorf("stop took %v, want the stop timeout", got)
		}
		if len(j.lines) != 1 {
			t.Errorf("pool was not closed")
		}
		close(release)
	})
}

type codedError struct{}

func (codedError) Error() string { return "coded" }
func (codedError) ExitCode() int { return 7 }

func TestExitCodes(t *testing.T) {
	t.Parallel()
	wait := func(ctx context.Context) error { <-ctx.Done(); return fmt.Errorf("serve: %w", ctx.Err()) }
	cases := []struct {
		name   string
		signal bool
		run    func(context.Context) error
		code   int
		print  string
	}{
		{"success", false, func(context.Context) error { return nil }, 0, ""},
		{"failure", false, func(context.Context) error { return errors.New("no disk") }, 1, "prog: no disk\n"},
		{"help", false, func(context.Context) error { return flag.ErrHelp }, 0, ""},
		{"own code", false, func(context.Context) error { return fmt.Errorf("x: %w", codedError{}) }, 7, "prog: x: coded\n"},
		{"signal, clean stop", true, wait, 0, ""},
		{"signal, failed stop", true, func(ctx context.Context) error { <-ctx.Done(); return errors.New("lost") }, 1, "prog: lost\n"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			signals := make(chan os.Signal, 2)
			if c.signal {
				signals <- syscall.SIGTERM
			}
			code := runWith("prog", &out, signals, func(int) {}, c.run)
			if code != c.code || out.String() != c.print {
				t.Errorf("exit %d, printed %q; want %d, %q", code, out.String(), c.code, c.print)
			}
		})
	}
}

func TestSecondSignalExitsAtOnce(t *testing.T) {
	t.Parallel()
	exited := make(chan int, 1)
	signals := make(chan os.Signal, 2)
	signals <- os.Interrupt
	signals <- os.Interrupt
	release := make(chan struct{})
	go runWith("prog", &bytes.Buffer{}, signals, func(c int) { exited <- c }, func(context.Context) error { <-release; return nil })
	if c := <-exited; c != ExitInterrupted {
		t.Errorf("exit code %d, want %d", c, ExitInterrupted)
	}
	close(release)
}
