// Package mesh describes a running mesh: where its services listen and with
// which certificate a person talks to them. The launcher writes it to mesh.json
// of the state directory, every command reads it from there.
package mesh

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
)

// FileName is the description's name in the state directory.
const FileName = "mesh.json"

// version of the file's form.
const version = 1

// EnvState names the state directory; EnvFile names a description elsewhere, for
// a mesh that no launcher of this machine started.
const (
	EnvState = "TRAINYARD_STATE"
	EnvFile  = "TRAINYARD_MESH"
)

// Mesh is a running mesh.
type Mesh struct {
	Version int `json:"version"`
	// State is the launcher's directory; empty for a mesh without one.
	State string `json:"state,omitempty"`
	// Launcher is the process that runs it; zero for a mesh without one.
	Launcher  Process   `json:"launcher"`
	StartTime time.Time `json:"start_time"`
	// Scheduler, Registry, Janitor and Agent are host:port of gRPC over mutual TLS;
	// of a scheduler with replicas all of them, with commas between.
	Scheduler string `json:"scheduler"`
	Registry  string `json:"registry"`
	Janitor   string `json:"janitor"`
	Agent     string `json:"agent,omitempty"`
	// DataService is a base URL.
	DataService string `json:"data_service"`
	// MLflow is the base URL of the registry's MLflow API: a client's MLFLOW_TRACKING_URI. Empty when it is not served.
	MLflow string `json:"mlflow,omitempty"`
	// S3 is host:port of the object store, over TLS.
	S3 string `json:"s3,omitempty"`
	// S3CA is the PEM file that the object store's certificate is checked against;
	// who downloads by a presigned URL needs it.
	S3CA string `json:"s3_ca,omitempty"`
	// Database is the connection string of Postgres; for people with the right to it.
	Database string `json:"database,omitempty"`
	// OTLP is host:port of the trace receiver; empty exports nothing.
	OTLP string `json:"otlp,omitempty"`
	// TraceFile has the received spans; empty when they went elsewhere.
	TraceFile string `json:"trace_file,omitempty"`
	// Admin has host:port of each service's /metrics.
	Admin map[string]string `json:"admin,omitempty"`
	// Person is the identity that commands show.
	Person identity.Files `json:"person"`
}

// Process names a process for good: a pid alone is used again.
type Process struct {
	PID int `json:"pid"`
	// StartTicks is when the kernel started it, in clock ticks since boot.
	StartTicks uint64 `json:"start_ticks"`
}

// DefaultState is the state directory when nothing names one.
func DefaultState() (string, error) {
	if dir := os.Getenv(EnvState); dir != "" {
		return filepath.Abs(dir)
	}
	if os.Geteuid() == 0 {
		return "/var/lib/trainyard", nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no state directory: %w; give one with --state or %s", err, EnvState)
	}
	return filepath.Join(home, ".local", "state", "trainyard"), nil
}

// NotRunningError says that no mesh runs on a state directory.
type NotRunningError struct{ State string }

func (e *NotRunningError) Error() string {
	return fmt.Sprintf("no mesh runs on %s: start one with `trainyard up`, or name another with --state or %s", e.State, EnvState)
}

// Find returns the mesh of a state directory, or the one that TRAINYARD_MESH
// describes when that is set and no directory was asked for by name.
func Find(state string, explicit bool) (*Mesh, error) {
	if path := os.Getenv(EnvFile); path != "" && !explicit {
		return read(path)
	}
	m, err := read(filepath.Join(state, FileName))
	if errors.Is(err, os.ErrNotExist) {
		return nil, &NotRunningError{State: state}
	}
	if err != nil {
		return nil, err
	}
	if m.Launcher.PID != 0 && !m.Launcher.Alive() {
		return nil, &NotRunningError{State: state}
	}
	return m, nil
}

func read(path string) (*Mesh, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	m := &Mesh{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if m.Version != version {
		return nil, fmt.Errorf("%s has version %d, this program reads version %d: use the trainyard that wrote it", path, m.Version, version)
	}
	return m, nil
}

// Write puts the description into its state directory in one rename.
func (m *Mesh) Write() error {
	m.Version = version
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(m.State, FileName)
	if err := os.WriteFile(path+".new", append(data, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Remove takes the description away.
func (m *Mesh) Remove() error {
	if err := os.Remove(filepath.Join(m.State, FileName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
