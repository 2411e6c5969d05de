package launch

import (
	"encoding/json"
	"path/filepath"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/cgroup"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/disk"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// Files of an attempt's directory.
const (
	specFile    = "launch"
	startedFile = "started"
	exitFile    = "exit"
	lockFile    = "lock"
	// LogFile has the newest output of the trainer, LogFile+".1" what came before.
	LogFile = "output.log"
	// WorkDir is the trainer's private directory.
	WorkDir = "work"
)

// Inherited descriptors of a supervisor; the trainer gets only the token.
const (
	tokenFD = 3
	readyFD = 4
	lockFD  = 5
)

// TokenFD is where the trainer finds its token.
const TokenFD = 3

// Spec is what a supervisor runs.
type Spec struct {
	Argv []string `json:"argv"`
	Env  []string `json:"env"`
	// LogBytes bounds each of the two log files.
	LogBytes int64 `json:"log_bytes"`
	// AgentLock is the file that a living agent holds locked; after it was free
	// for OrphanTimeout the supervisor ends the trainer.
	AgentLock     string        `json:"agent_lock"`
	OrphanTimeout time.Duration `json:"orphan_timeout"`
	// Group holds the trainer to its memory; nil means that nothing does. The
	// supervisor removes it in the end.
	Group *cgroup.Group `json:"group,omitempty"`
}

// started is written once the trainer runs. It and the specification are not
// synced: after power loss there is no process that they could describe.
type started struct {
	Supervisor procfs.Identity `json:"supervisor"`
	Trainer    procfs.Identity `json:"trainer"`
	Time       time.Time       `json:"time"`
}

// Exit is how a trainer ended.
type Exit struct {
	// Started is false when no trainer process ever ran; Error may say why.
	Started bool `json:"started"`
	// Known is false when the supervisor could not record the end.
	Known    bool   `json:"known"`
	ExitCode int    `json:"exit_code"`
	Signal   string `json:"signal,omitempty"`
	Error    string `json:"error,omitempty"`
	// OOMKills counts the kernel's kills for memory while the trainer ran, when
	// the trainer died of SIGKILL.
	OOMKills int `json:"oom_kills,omitempty"`
	// LimitKills counts the kernel's kills at the trainer's own limit of LimitBytes.
	LimitKills int   `json:"limit_kills,omitempty"`
	LimitBytes int64 `json:"limit_bytes,omitempty"`
	// Orphaned says that no agent had lived for the orphan timeout.
	Orphaned   bool      `json:"orphaned,omitempty"`
	PeakRSS    int64     `json:"peak_rss"`
	StderrTail string    `json:"stderr_tail,omitempty"`
	Time       time.Time `json:"time"`
}

func writeRecord(path string, v any, write func(disk.FS, string, []byte) error) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return write(disk.OS(), path, raw)
}

func readRecord(path string, v any) error {
	raw, err := disk.ReadSealed(disk.OS(), path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return &disk.CorruptError{Path: filepath.Base(path), Detail: err.Error()}
	}
	return nil
}
