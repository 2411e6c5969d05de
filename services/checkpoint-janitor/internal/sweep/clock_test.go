package sweep

import (
	"testing"
	"time"
)

func TestAClockThatWasSetIsNoticed(t *testing.T) {
	t.Parallel()
	c := startClock()
	if step := c.step().Abs(); step > time.Minute {
		t.Errorf("an untouched clock was set by %s", step)
	}
	c.wall = c.wall.Add(-48 * time.Hour) // the process started two days ago by a clock that has moved since
	if step := c.step() - 48*time.Hour; step.Abs() > time.Minute {
		t.Errorf("off by %s", step)
	}
}
