// Package modelclient is how a Go inference service gets its models. It follows the
// PRODUCTION version of a model, downloads each new one into a content-addressed cache,
// proves every byte against the registry's manifest, and swaps to it in one step. What it has
// proven it goes on serving when the registry, or the object store, is down: also after
// a restart.
//
//	client, err := modelclient.Open(modelclient.Config{Registry: "registry:7702", TLS: tls, Dir: "/var/cache/models"})
//	bull := client.Follow(ctx, "bull_specialist")
//	model, err := bull.Wait(ctx)                    // the first version, from the cache if need be
//	weights, err := os.ReadFile(model.Path("model.safetensors"))
//	...
//	for range bull.Changed() { model = bull.Current() ... }
//
// It lives in libs and not beside the registry because it is for others to import: whoever
// takes it gets the contracts and this module, and none of the registry's own packages.
// The command line uses it too (trainyard pull).
package modelclient

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// Config of a client. Registry (or Conn) and Dir are required.
type Config struct {
	// Registry is the registry's host:port.
	Registry string
	// TLS comes from identity.ClientTLS with the role registry; the certificate's own role
	// is inference or person.
	TLS *tls.Config
	// Conn replaces Registry and TLS where a connection exists already; Close leaves it open.
	Conn grpc.ClientConnInterface
	// Dir is the cache, made when missing. One process at a time may have it open.
	Dir string
	// Objects is the HTTP client for the object store's presigned URLs; nil means one that
	// trusts the system's authorities. Where the store is out of reach, files come
	// through the registry.
	Objects *http.Client
	// Keep is how many former versions of a model stay in the cache, for a rollback without
	// a download; 0 means 2, less than 0 means none.
	Keep int
	// Log may be nil.
	Log *zap.Logger
}

// Model is one version of a model in the cache, every file proven. It never changes, and its
// files stay for as long as the client is open and it is among the versions to keep.
type Model struct {
	// Name and Version identify it; Stage is where it stood when it was resolved.
	Name    string `json:"name"`
	Version int64  `json:"version"`
	Stage   string `json:"stage"`
	// ManifestSHA256 is the identity of its content, in lower-case hex.
	ManifestSHA256 string `json:"manifest_sha256"`
	CheckpointID   string `json:"checkpoint_id"`
	// FeatureSchema is what its inputs have to look like.
	FeatureSchema string `json:"feature_schema"`
	// Metrics are those of its checkpoint that are finite.
	Metrics map[string]float64 `json:"metrics"`
	Files   []File             `json:"files"`
	// Dir has the files under their paths.
	Dir string `json:"-"`
}

// File is one file of a model.
type File struct {
	// Path is relative to the model's Dir, with slashes.
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	// Size is in bytes.
	Size int64 `json:"size"`
}

// Path is where a file of the model lies on disk.
func (m *Model) Path(name string) string { return filepath.Join(m.Dir, filepath.FromSlash(name)) }

// Selector chooses a version: by Version, else by Alias, else by Stage, else PRODUCTION.
type Selector struct {
	Version int64
	Alias   string
	Stage   registryv1.Stage
}

// Client is a cache and a connection to fill it.
type Client struct {
	cfg    Config
	log    *zap.Logger
	models registryv1.ModelServiceClient
	runs   registryv1.RunServiceClient
	http   *http.Client
	cache  *cache
	close  func() error
}

const defaultKeep = 2

// Open opens the cache; it does not connect.
func Open(cfg Config) (*Client, error) {
	if cfg.Dir == "" || cfg.Registry == "" && cfg.Conn == nil {
		return nil, errors.New("modelclient: Dir, and Registry or Conn, are required")
	}
	switch {
	case cfg.Keep == 0:
		cfg.Keep = defaultKeep
	case cfg.Keep < 0:
		cfg.Keep = 0
	}
	c := &Client{cfg: cfg, log: cfg.Log, http: cfg.Objects}
	if c.log == nil {
		c.log = zap.NewNop()
	}
	if c.http == nil {
		c.http = &http.Client{Transport: &http.Transport{ResponseHeaderTimeout: 30 * time.Second, MaxIdleConnsPerHost: 4}}
	}
	var err error
	if c.cache, err = openCache(cfg.Dir); err != nil {
		return nil, fmt.Errorf("modelclient: %w", err)
	}
	c.close = c.cache.close
	conn := cfg.Conn
	if conn == nil {
		dialed, err := rpcclient.Dial(cfg.Registry, rpcclient.Options{TLS: cfg.TLS, Log: cfg.Log})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("modelclient: %w", err), c.cache.close())
		}
		conn = dialed
		c.close = func() error { return errors.Join(dialed.Close(), c.cache.close()) }
	}
	c.models, c.runs = registryv1.NewModelServiceClient(conn), registryv1.NewRunServiceClient(conn)
	return c, nil
}

// Close lets go of the cache and the connection. Followers have to have ended.
func (c *Client) Close() error { return c.close() }

// Fetch returns a version with all files in the cache, downloading what is not there. It needs
// the registry; Cached does not.
func (c *Client) Fetch(ctx context.Context, name string, which Selector) (*Model, error) {
	ask := &registryv1.ResolveModelRequest{ModelName: name}
	switch {
	case which.Version != 0:
		ask.Selector = &registryv1.ResolveModelRequest_Version{Version: which.Version}
	case which.Alias != "":
		ask.Selector = &registryv1.ResolveModelRequest_Alias{Alias: which.Alias}
	case which.Stage != 0:
		ask.Selector = &registryv1.ResolveModelRequest_Stage{Stage: which.Stage}
	default:
		ask.Selector = &registryv1.ResolveModelRequest_Stage{Stage: registryv1.Stage_STAGE_PRODUCTION}
	}
	resolved, err := c.models.ResolveModel(ctx, ask)
	if err != nil {
		return nil, err
	}
	model, err := describe(resolved)
	if err != nil {
		return nil, err
	}
	// No trimming between a content's arrival and the version that links to it.
	c.cache.filling.RLock()
	defer c.cache.filling.RUnlock()
	for _, f := range model.Files {
		if err := c.bring(ctx, f, resolved); err != nil {
			return nil, fmt.Errorf("%s version %d, %s: %w", name, model.Version, f.Path, err)
		}
	}
	if err := c.cache.publish(model); err != nil {
		return nil, fmt.Errorf("%s version %d: %w", name, model.Version, err)
	}
	return model, nil
}

// bring makes a content present and proven. Two models that share it wait for one download.
func (c *Client) bring(ctx context.Context, f File, from *registryv1.ResolveModelResponse) error {
	one := c.cache.lockOf(f.SHA256)
	one.Lock()
	defer one.Unlock()
	err := c.cache.prove(blobName(f.SHA256), f)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		c.log.Warn("a cached file is damaged; fetching it again", zap.String("file", f.Path), zap.Error(err))
		if err := c.cache.root.Remove(blobName(f.SHA256)); err != nil {
			return err
		}
	}
	return c.download(ctx, f, from)
}

// Cached returns the version of a model that was served last, after every file of it was read
// and proven again; nil when there is none.
func (c *Client) Cached(name string) *Model {
	model, err := c.cache.last(name)
	if err != nil {
		c.log.Warn("the cached model is not usable; waiting for the registry", zap.String("model", name), zap.Error(err))
		return nil
	}
	return model
}
