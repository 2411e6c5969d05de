package cli

import (
	"fmt"
	"math"
	"strings"
	"time"

	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
)

const progressWidth = 24

func epochText(p *jobv1.Progress) string {
	if p == nil {
		return "–"
	}
	if p.GetTotalEpochs() == 0 {
		return fmt.Sprint(p.GetEpoch())
	}
	return fmt.Sprintf("%d/%d", p.GetEpoch(), p.GetTotalEpochs())
}

func objectiveText(p *jobv1.Progress) string {
	if p == nil || p.GetEpoch() == 0 {
		return "–"
	}
	return numberText(p.GetObjective(), "%.3f")
}

func speedText(p *jobv1.Progress) string {
	v := p.GetStepsPerSecond()
	switch {
	case v <= 0 || math.IsNaN(v) || math.IsInf(v, 0):
		return "–"
	case v >= 10000:
		return fmt.Sprintf("%.0fk", v/1000)
	default:
		return fmt.Sprintf("%.0f", v)
	}
}

// remainingText is the trainer's own estimate, or one from the epochs done.
func remainingText(j *jobv1.Job, now time.Time) string {
	p := j.GetProgress()
	switch {
	case final(j.GetState()):
		if j.GetStartTime() != nil && j.GetEndTime() != nil {
			return "took " + spanText(j.GetEndTime().AsTime().Sub(j.GetStartTime().AsTime()))
		}
		return ""
	case p.GetRemaining() != nil:
		return "ETA " + spanText(p.GetRemaining().AsDuration())
	case p.GetEpoch() > 0 && p.GetTotalEpochs() > 0 && j.GetStartTime() != nil:
		perEpoch := now.Sub(j.GetStartTime().AsTime()) / time.Duration(p.GetEpoch())
		return "ETA " + spanText(perEpoch*time.Duration(p.GetTotalEpochs()-p.GetEpoch()))
	default:
		return ""
	}
}

// bar draws epochs done of those planned, in eighths of a character. A job that
// stopped early has done all it wanted.
func bar(j *jobv1.Job) string {
	share := 0.0
	if p := j.GetProgress(); p.GetTotalEpochs() > 0 {
		share = float64(p.GetEpoch()) / float64(p.GetTotalEpochs())
	}
	if j.GetState() == jobv1.Job_STATE_SUCCEEDED {
		share = 1
	}
	eighths := int(min(max(share, 0), 1) * progressWidth * 8)
	var b strings.Builder
	for range progressWidth {
		switch {
		case eighths >= 8:
			b.WriteRune('█')
		case eighths > 0:
			b.WriteRune([]rune(" ▏▎▍▌▋▊▉")[eighths])
		default:
			b.WriteRune('·')
		}
		eighths -= 8
	}
	return b.String()
}

// progressLine is a job in one line: "bull-spx  running  ████··  12/60  reward …".
func progressLine(j *jobv1.Job, nameWidth int, now time.Time) string {
	p := j.GetProgress()
	name := fmt.Sprintf("%-*s", nameWidth, j.GetSpec().GetDisplayName())
	if p == nil || p.GetEpoch() == 0 {
		return strings.TrimRight(fmt.Sprintf("%s  %-9s  %s  %s", name, stateText(j), bar(j), j.GetStateReason()), " ")
	}
	line := fmt.Sprintf("%s  %-9s  %s  epoch %7s  reward %8s  val Sharpe %6s  %5s steps/s  %s", name, stateText(j), bar(j),
		epochText(p), numberText(p.GetReward(), "%+.4f"), objectiveText(p), speedText(p), remainingText(j, now))
	if s := j.GetState(); s != jobv1.Job_STATE_RUNNING && s != jobv1.Job_STATE_SUCCEEDED && j.GetStateReason() != "" {
		line += "  " + j.GetStateReason()
	}
	return strings.TrimRight(line, " ")
}
