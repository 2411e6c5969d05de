package modelclient

import (
	"context"
	"encoding/hex"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// Follower keeps a model current: the PRODUCTION version, or the one before it until the new
// one is here and proven. When nothing is in PRODUCTION any more it goes on with what it has,
// and Live says so: what to do then is the service's decision.
type Follower struct {
	client  *Client
	name    string
	current atomic.Pointer[Model]
	live    atomic.Bool
	online  atomic.Bool
	changed chan struct{}
	first   chan struct{}
	done    chan struct{}
}

// retryPause is the wait after a failed download or a broken watch; it doubles up to
// retryMost.
const (
	retryPause = 200 * time.Millisecond
	retryMost  = 10 * time.Second
)

// Follow begins to follow a model until ctx ends. What was served last is there at once, if
// the cache has it and it is proven.
func (c *Client) Follow(ctx context.Context, name string) *Follower {
	f := &Follower{client: c, name: name, changed: make(chan struct{}, 1), first: make(chan struct{}), done: make(chan struct{})}
	if cached := c.Cached(name); cached != nil {
		f.live.Store(true) // for all that is known
		f.swap(cached)
	}
	frames := make(chan *registryv1.ModelVersion, 1)
	go func() {
		defer close(frames)
		f.watch(ctx, frames)
	}()
	go func() {
		defer close(f.done)
		f.run(ctx, frames)
	}()
	return f
}

// Current is the version to serve; nil before the first.
func (f *Follower) Current() *Model { return f.current.Load() }

// Wait returns Current as soon as there is one.
func (f *Follower) Wait(ctx context.Context) (*Model, error) {
	select {
	case <-f.first:
		return f.Current(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Changed gets a token after each swap, and when nothing is in PRODUCTION any more. It holds
// one: a slow reader looks once for many.
func (f *Follower) Changed() <-chan struct{} { return f.changed }

// Live reports whether Current was the PRODUCTION version when the registry last said
// anything.
func (f *Follower) Live() bool { return f.live.Load() }

// Online reports whether the registry is being heard now.
func (f *Follower) Online() bool { return f.online.Load() }

// Done is closed when the follower has ended, after its context.
func (f *Follower) Done() <-chan struct{} { return f.done }

func (f *Follower) swap(m *Model) {
	if f.current.Swap(m) == nil {
		close(f.first)
	}
	f.tell()
}

func (f *Follower) tell() {
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

// watch passes on what the registry says is in PRODUCTION, the newest only. After a reconnect
// the first frame is whatever is there then, so that nothing is missed.
func (f *Follower) watch(ctx context.Context, frames chan *registryv1.ModelVersion) {
	pause := retryPause
	for ctx.Err() == nil {
		stream, err := f.client.models.WatchModel(ctx, &registryv1.WatchModelRequest{ModelName: f.name})
		for err == nil {
			var frame *registryv1.WatchModelResponse
			if frame, err = stream.Recv(); err != nil {
				break
			}
			f.online.Store(true)
			pause = retryPause
			select {
			case <-frames: // an older one that nobody has taken
			default:
			}
			frames <- frame.GetVersion()
		}
		f.online.Store(false)
		if ctx.Err() == nil {
			f.client.log.Warn("the registry is not being heard; serving what is cached", zap.String("model", f.name), zap.Error(err))
		}
		pause = wait(ctx, pause)
	}
}

// wait sleeps and returns the next pause.
func wait(ctx context.Context, pause time.Duration) time.Duration {
	select {
	case <-ctx.Done():
	case <-time.After(pause):
	}
	return min(2*pause, retryMost)
}

func (f *Follower) run(ctx context.Context, frames <-chan *registryv1.ModelVersion) {
	frame, ok := <-frames
	for ok {
		if frame == nil {
			f.live.Store(false)
			f.tell()
			frame, ok = <-frames
			continue
		}
		frame, ok = f.take(ctx, frame, frames)
	}
}

// take makes a version current, trying until it is or until the registry names another, and
// returns the next frame.
func (f *Follower) take(ctx context.Context, v *registryv1.ModelVersion, frames <-chan *registryv1.ModelVersion) (next *registryv1.ModelVersion, ok bool) {
	if held := f.Current(); held != nil && held.Version == v.GetVersion() && held.ManifestSHA256 == hex.EncodeToString(v.GetManifestSha256()) {
		f.live.Store(true)
		next, ok = <-frames
		return next, ok
	}
	type outcome struct {
		model *Model
		err   error
	}
	for pause := retryPause; ; pause = min(2*pause, retryMost) {
		fetching, cancel := context.WithCancel(ctx)
		fetched := make(chan outcome, 1)
		go func() {
			m, err := f.client.Fetch(fetching, f.name, Selector{Version: v.GetVersion()})
			fetched <- outcome{m, err}
		}()
		var got outcome
		select {
		case next, ok = <-frames:
			cancel()
			<-fetched
			return next, ok
		case got = <-fetched:
			cancel()
		}
		if got.err == nil {
			f.adopt(got.model)
			next, ok = <-frames
			return next, ok
		}
		f.client.log.Warn("a new version could not be fetched; serving the one before", zap.String("model", f.name),
			zap.Int64("version", v.GetVersion()), zap.Duration("again_in", pause), zap.Error(got.err))
		select {
		case next, ok = <-frames:
			return next, ok
		case <-time.After(pause):
		}
	}
}

func (f *Follower) adopt(m *Model) {
	if err := f.client.cache.serve(m); err != nil {
		f.client.log.Warn("a restart without the registry would serve the version before", zap.String("model", f.name), zap.Error(err))
	}
	f.live.Store(true)
	f.swap(m)
	f.client.log.Info("serving", zap.String("model", m.Name), zap.Int64("version", m.Version), zap.String("manifest", m.ManifestSHA256))
	if err := f.client.cache.trim(m, f.client.cfg.Keep); err != nil {
		f.client.log.Warn("former versions stay in the cache", zap.String("model", f.name), zap.Error(err))
	}
}
