// Package upload brings staged files to the registry: validate, announce, send
// what the store lacks, commit. What was accepted is on disk before it is
// acknowledged to the trainer, so it survives any restart; training goes on
// meanwhile, and while the registry is away.
package upload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// Registry is what an upload needs of the registry. Errors that wrap
// lease.ErrFenced or lease.ErrRefused are final, others are tried again.
type Registry interface {
	// BeginCheckpoint announces files and, by path, the chunks that they are to be stored
	// as; the uploads are for files or chunks that the store lacks.
	BeginCheckpoint(ctx context.Context, key lease.Key, step int64, files []lease.File, chunks map[string][]lease.Chunk) (id string, uploads []lease.Transfer, err error)
	CommitCheckpoint(ctx context.Context, key lease.Key, id string, ready []byte, parent string) error
	BeginArtifact(ctx context.Context, key lease.Key, file lease.File) (*lease.Transfer, error)
	CommitArtifact(ctx context.Context, key lease.Key, file lease.File, contentType string) error
	// PrepareParts returns a transfer for each part by number that the store lacks;
	// without any it says whether the store has the whole file.
	PrepareParts(ctx context.Context, key lease.Key, file lease.File, parts []lease.Part) (missing map[uint32]lease.Transfer, complete bool, err error)
	Put(ctx context.Context, t lease.Transfer, body io.Reader) error
}

// Item is one thing to commit: a checkpoint when Ready is set, else an artifact.
type Item struct {
	Step  int64        `json:"step"`
	Files []lease.File `json:"files"`
	// Ready is the trainer's CheckpointReady in wire form.
	Ready       []byte `json:"ready,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	Parent      string `json:"parent,omitempty"`
	TraceParent string `json:"traceparent,omitempty"`
	Resumable   bool   `json:"resumable,omitempty"`
	// Submitted is set by Submit.
	Submitted time.Time `json:"submitted"`
}

// Result of an item: a committed checkpoint's id, or the problems for which it
// will never be committed.
type Result struct {
	Item     Item
	ID       string
	Problems []string
	// Sent are the bytes that the store lacked.
	Sent int64
}

// Pipeline works through one attempt's items in order.
type Pipeline struct {
	key      lease.Key
	dir      string
	staging  *staging.Store
	registry Registry
	log      *zap.Logger
	report   func(Result)
	keep     func(id string, item Item, path func([32]byte) string) error
	share    int64
	cuts     map[[32]byte][]lease.Chunk // of the item in hand; only Run touches it

	mu      sync.Mutex
	changed chan struct{}
	pending []entry
	next    int
}

type entry struct {
	name string
	item Item
}

// Options of a pipeline.
type Options struct {
	Key      lease.Key
	Dir      string
	Staging  *staging.Store
	Registry Registry
	Log      *zap.Logger
	// Report is told of every final result.
	Report func(Result)
	// ShareTensorsFrom is the least size in bytes of a tensor that is stored by itself;
	// 0 stores every file whole.
	ShareTensorsFrom int64
	// Keep may link a committed checkpoint's files before they leave staging.
	Keep func(id string, item Item, path func([32]byte) string) error
}

// Open finds what an earlier process left to do in dir.
func Open(opts Options) (*Pipeline, error) {
	if err := disk.OS().MkdirAll(opts.Dir); err != nil {
		return nil, err
	}
	p := &Pipeline{
		key: opts.Key, dir: opts.Dir, staging: opts.Staging, registry: opts.Registry, log: opts.Log,
		report: opts.Report, keep: opts.Keep, share: opts.ShareTensorsFrom, cuts: map[[32]byte][]lease.Chunk{}, changed: make(chan struct{}),
	}
	names, err := disk.OS().List(opts.Dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		var number int
		if _, err := fmt.Sscanf(name, "%09d.item", &number); err != nil || name != itemName(number) {
			continue
		}
		p.next = max(p.next, number)
		raw, err := disk.ReadSealed(disk.OS(), filepath.Join(opts.Dir, name))
		if err != nil {
			return nil, err
		}
		var item Item
		if err := json.Unmarshal(raw, &item); err != nil {
			return nil, &disk.CorruptError{Path: name, Detail: err.Error()}
		}
		p.pending = append(p.pending, entry{name, item})
	}
	return p, nil
}

func itemName(number int) string { return fmt.Sprintf("%09d.item", number) }

// Submit takes an item over; it is durable when Submit returns. An item that is
// pending already is not taken twice.
func (p *Pipeline) Submit(item Item) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	item.Submitted = time.Now()
	raw, err := json.Marshal(item)
	if err != nil {
		return err
	}
	for _, e := range p.pending {
		if e.item.Step == item.Step && slices.Equal(e.item.Files, item.Files) {
			return nil
		}
	}
	p.next++
	e := entry{itemName(p.next), item}
	if err := disk.WriteSealed(disk.OS(), filepath.Join(p.dir, e.name), raw); err != nil {
		return err
	}
	p.staging.Claim(item.Files...)
	p.pending = append(p.pending, e)
	p.wake()
	return nil
}

func (p *Pipeline) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// Pending returns how many items wait.
func (p *Pipeline) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending)
}

// WaitIdle waits until nothing is left to do.
func (p *Pipeline) WaitIdle(ctx context.Context) error {
	for {
		p.mu.Lock()
		idle, changed := len(p.pending) == 0, p.changed
		p.mu.Unlock()
		if idle {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Run works until ctx ends.
func (p *Pipeline) Run(ctx context.Context) {
	backoff := minBackoff
	for ctx.Err() == nil {
		p.mu.Lock()
		changed := p.changed
		var head *entry
		if len(p.pending) > 0 {
			head = &p.pending[0]
		}
		p.mu.Unlock()
		if head == nil {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		result, err := p.process(ctx, head.item)
		if err != nil {
			if ctx.Err() == nil {
				p.log.Warn("an upload will be tried again", zap.Stringer("attempt", p.key), zap.Int64("step", head.item.Step), zap.Error(err))
			}
			pause(ctx, backoff)
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = minBackoff
		p.finish(head.name, result)
	}
}

const (
	minBackoff = 200 * time.Millisecond
	maxBackoff = 10 * time.Second
)

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// process returns a final result, or an error that is worth another try.
func (p *Pipeline) process(ctx context.Context, item Item) (Result, error) {
	ctx = telemetry.ContextWithTraceParent(ctx, item.TraceParent)
	ctx, span := otel.Tracer("github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/upload").Start(ctx, "checkpoint.save",
		trace.WithAttributes(attribute.String("job_id", p.key.JobID), attribute.Int64("step", item.Step), attribute.Int("files", len(item.Files))))
	defer span.End()
	result := Result{Item: item}
	problems, err := p.validate(item)
	if err != nil {
		return result, err
	}
	if len(problems) > 0 {
		result.Problems = problems
		return result, nil
	}
	if item.Ready != nil {
		result.ID, result.Sent, err = p.checkpoint(ctx, item)
	} else {
		err = p.artifact(ctx, item)
	}
	if errors.Is(err, lease.ErrFenced) || errors.Is(err, lease.ErrRefused) {
		result.ID, result.Problems = "", []string{err.Error()}
		return result, nil
	}
	return result, err
}

func (p *Pipeline) validate(item Item) (problems []string, err error) {
	for _, file := range item.Files {
		if !p.staging.Has(file.SHA256, file.Size) {
			problems = append(problems, fmt.Sprintf("%s: no pushed file has SHA-256 %x and %d bytes", file.Path, file.SHA256, file.Size))
			continue
		}
		f, err := p.staging.OpenFile(file.SHA256)
		if err != nil {
			return nil, err
		}
		problems = append(problems, staging.Validate(file.Path, f)...)
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return problems, nil
}

func (p *Pipeline) artifact(ctx context.Context, item Item) error {
	if len(item.Files) != 1 {
		return fmt.Errorf("%w: an artifact is one file", lease.ErrRefused)
	}
	t, err := p.registry.BeginArtifact(ctx, p.key, item.Files[0])
	if err != nil {
		return err
	}
	if t != nil {
		if err := p.put(ctx, piece{item.Files[0], t.SHA256, 0}, *t); err != nil {
			return err
		}
	}
	return p.registry.CommitArtifact(ctx, p.key, item.Files[0], item.ContentType)
}

// finish keeps, reports and forgets an item, in this order: a crash between any
// two repeats a step that has no second effect.
func (p *Pipeline) finish(name string, result Result) {
	if len(result.Problems) == 0 && p.keep != nil && result.ID != "" {
		if err := p.keep(result.ID, result.Item, p.staging.Path); err != nil {
			p.log.Warn("a checkpoint could not be kept on the host", zap.Stringer("attempt", p.key), zap.Error(err))
		}
	}
	p.report(result)
	clear(p.cuts)
	err := disk.OS().Remove(filepath.Join(p.dir, name))
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = disk.OS().SyncDir(p.dir)
	}
	p.mu.Lock()
	p.pending = slices.DeleteFunc(p.pending, func(e entry) bool { return e.name == name })
	needed := map[[32]byte]bool{}
	for _, e := range p.pending {
		for _, f := range e.item.Files {
			needed[f.SHA256] = true
		}
	}
	var gone [][32]byte
	for _, f := range result.Item.Files {
		if !needed[f.SHA256] {
			gone = append(gone, f.SHA256)
		}
	}
	p.wake()
	p.mu.Unlock()
	if err := errors.Join(err, p.staging.Remove(gone...)); err != nil {
		p.log.Warn("staged files were not removed", zap.Stringer("attempt", p.key), zap.Error(err))
	}
}
