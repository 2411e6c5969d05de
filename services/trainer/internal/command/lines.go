package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/run"
)

// Line is one line on the metrics pipe. Numbers beside the known names are
// metrics too, so that {"step": 7, "loss": 0.3} is enough.
type Line struct {
	Step    *int64             `json:"step"`
	Metrics map[string]float64 `json:"metrics"`
	Params  map[string]string  `json:"params"`
	// Epoch, TotalEpochs and Objective are shown as the job's progress.
	Epoch       int      `json:"epoch"`
	TotalEpochs int      `json:"total_epochs"`
	Objective   *float64 `json:"objective"`
	// OutOfMemory is the program's own report of why it will fail.
	OutOfMemory string `json:"out_of_memory"`
}

const (
	maxLine       = 1 << 20
	progressEvery = time.Second
)

// lines reads the metrics pipe.
type lines struct {
	pipe   *os.File
	report interface {
		Params(ctx context.Context, params map[string]string) error
		Metrics(ctx context.Context, points []run.Metric) error
		Progress(ctx context.Context, p run.Progress) error
	}
	log      *zap.Logger
	mu       sync.Mutex // the pipe and the file are read side by side
	progress run.Progress
	told     time.Time
	toldStep int64
	good     int
	bad      int
	firstBad string
	oom      string
}

func newLines(pipe *os.File, report Reporter, log *zap.Logger) *lines {
	return &lines{pipe: pipe, report: report, log: log, progress: run.Progress{Objective: math.NaN()}}
}

// read returns when the program has closed the pipe. An error means that the
// attempt is over; a bad line is counted and the rest is read on.
func (l *lines) read(ctx context.Context) error {
	r := bufio.NewReaderSize(l.pipe, 64<<10)
	for {
		text, err := readLine(r)
		if len(text) > 0 {
			if lineErr := l.take(ctx, text); lineErr != nil {
				// Nobody listens: drain, so that the program does not block on its pipe.
				_, _ = io.Copy(io.Discard, l.pipe)
				return lineErr
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
				l.log.Debug("the metrics pipe broke", zap.Error(err))
			}
			return l.flush(ctx)
		}
	}
}

// readLine returns one line without its end; a longer one is cut.
func readLine(r *bufio.Reader) ([]byte, error) {
	var out []byte
	for {
		part, more, err := r.ReadLine()
		if len(out) < maxLine {
			out = append(out, part...)
		}
		if err != nil || !more {
			return out, err
		}
	}
}

func (l *lines) take(ctx context.Context, text []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if strings.TrimSpace(string(text)) == "" {
		return nil
	}
	line, err := parse(text)
	if err != nil {
		l.bad++
		if l.bad == 1 {
			l.firstBad = err.Error()
			l.log.Warn("a line on the metrics pipe was ignored", zap.Error(err))
		}
		return nil
	}
	l.good++
	if line.OutOfMemory != "" {
		l.oom = line.OutOfMemory
	}
	if len(line.Params) > 0 {
		if err := l.report.Params(ctx, line.Params); err != nil {
			return err
		}
	}
	if line.Step != nil {
		l.progress.Step = max(l.progress.Step, *line.Step)
	}
	l.progress.Epoch = max(l.progress.Epoch, line.Epoch)
	l.progress.TotalEpochs = max(l.progress.TotalEpochs, line.TotalEpochs)
	if line.Objective != nil {
		l.progress.Objective = *line.Objective
	}
	now := time.Now()
	if len(line.Metrics) > 0 {
		step := l.progress.Step
		if line.Step != nil {
			step = *line.Step
		}
		var points []run.Metric
		for key, value := range line.Metrics {
			points = append(points, run.Metric{Key: key, Value: value, Step: step, Time: now})
		}
		sort.Slice(points, func(i, j int) bool { return points[i].Key < points[j].Key })
		if err := l.report.Metrics(ctx, points); err != nil {
			return err
		}
	}
	if now.Sub(l.told) >= progressEvery {
		return l.tell(ctx)
	}
	return nil
}

// flush reports the progress.
func (l *lines) flush(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tell(ctx)
}

func (l *lines) tell(ctx context.Context) error {
	if l.good == 0 {
		return nil
	}
	// The last word comes right after the one before it: no time to measure a speed in.
	now := time.Now()
	if passed := now.Sub(l.told); l.told.IsZero() || passed >= progressEvery {
		if !l.told.IsZero() {
			l.progress.StepsPerSecond = float64(l.progress.Step-l.toldStep) / passed.Seconds()
		}
		l.told, l.toldStep = now, l.progress.Step
	}
	return l.report.Progress(ctx, l.progress)
}

// silent reports whether not one good line came.
func (l *lines) silent() bool { return l.good == 0 }

// note says what was wrong with the lines, for the ending's message.
func (l *lines) note() string {
	if l.bad == 0 {
		return ""
	}
	return fmt.Sprintf(" (%d lines on the metrics pipe were ignored, the first: %s)", l.bad, l.firstBad)
}

// bare finds what Python's json writes for values that JSON does not have.
var bare = regexp.MustCompile(`([:\[,]\s*)(NaN|-?Infinity)(\s*[,}\]])`)

// key is the contract's pattern of metric and parameter names.
var key = regexp.MustCompile(`^[A-Za-z0-9_./ :-]{1,250}$`)

// parse reads a line: the known names, and every other number as a metric.
func parse(text []byte) (*Line, error) {
	if len(text) >= maxLine {
		return nil, fmt.Errorf("a line longer than %d bytes", maxLine)
	}
	// Twice, as neighbouring matches share their comma.
	for range 2 {
		text = bare.ReplaceAll(text, []byte(`$1"$2"$3`))
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, fmt.Errorf("%.80q is not a JSON object", text)
	}
	line := &Line{Metrics: map[string]float64{}, Params: map[string]string{}}
	for name, value := range fields {
		number, numeric := toNumber(value)
		switch {
		case name == "step" && numeric:
			step := int64(number)
			line.Step = &step
		case name == "epoch" && numeric:
			line.Epoch = int(number)
		case name == "total_epochs" && numeric:
			line.TotalEpochs = int(number)
		case name == "objective" && numeric:
			line.Objective = &number
		case name == "out_of_memory":
			line.OutOfMemory = strings.TrimSpace(fmt.Sprint(value))
		case name == "metrics" || name == "params":
			members, ok := value.(map[string]any)
			if !ok {
				return nil, fmt.Errorf("%q is not an object", name)
			}
			for k, v := range members {
				if !key.MatchString(k) {
					return nil, fmt.Errorf("the name %.80q is not allowed", k)
				}
				n, ok := toNumber(v)
				switch {
				case name == "params":
					line.Params[k] = fmt.Sprint(v)
				case !ok:
					return nil, fmt.Errorf("the metric %q is not a number", k)
				default:
					line.Metrics[k] = n
				}
			}
		case numeric && key.MatchString(name):
			line.Metrics[name] = number
		default:
			return nil, fmt.Errorf("%.80q is neither a known name nor a number", name)
		}
	}
	if line.Step != nil && *line.Step < 0 {
		return nil, fmt.Errorf("step %d is negative", *line.Step)
	}
	return line, nil
}

func toNumber(v any) (float64, bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case string:
		if v == "NaN" || v == "Infinity" || v == "-Infinity" {
			n, err := strconv.ParseFloat(v, 64)
			return n, err == nil
		}
	}
	return 0, false
}
