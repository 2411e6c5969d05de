package command

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// A program that takes a step each 200 ms makes five a second, also when it ends.
func TestTheSpeedIsThatOfTheSteps(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newListener()
		in := newLines(nil, l, zap.NewNop())
		for step := range 22 {
			if err := in.take(t.Context(), fmt.Appendf(nil, `{"step": %d, "loss": 1}`, step)); err != nil {
				t.Fatal(err)
			}
			time.Sleep(200 * time.Millisecond)
		}
		if err := in.flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if last := l.progress[len(l.progress)-1]; last.Step != 21 || last.StepsPerSecond != 5 {
			t.Errorf("ends with %d steps at %g a second, want 21 at 5", last.Step, last.StepsPerSecond)
		}
	})
}
