// Package cgroup holds trainers to their host memory by control groups of the
// kernel: of version 2 where the memory controller is there, else of version 1.
// The kernel then refuses at the limit, whatever the program does; the watchdog,
// which looks a few times a second, is the softer way.
package cgroup

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/procfs"
)

// Controller makes groups below one directory of a mounted hierarchy.
type Controller struct {
	dir string
	v2  bool
	// prefix marks the groups of this agent: others may share the directory.
	prefix string
}

// Group is one trainer's group. It is plain data: a supervisor gets it in its
// specification.
type Group struct {
	Dir string `json:"dir"`
	V2  bool   `json:"v2"`
}

// Detect finds the memory controller and tries whether this process may make a
// group in it; the error says why not. owner tells this agent's groups from
// those of others. proc is "/proc".
func Detect(proc, owner string) (*Controller, error) {
	mounts, err := os.ReadFile(filepath.Join(proc, "self/mounts"))
	if err != nil {
		return nil, err
	}
	own, err := os.ReadFile(filepath.Join(proc, "self/cgroup"))
	if err != nil {
		return nil, err
	}
	c, err := locate(string(mounts), string(own))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(owner))
	c.prefix = "trainyard-" + hex.EncodeToString(sum[:4]) + "-"
	if c.v2 {
		if err := c.delegate(); err != nil {
			return nil, err
		}
	}
	probe, err := c.Create("probe", 64<<20)
	if err != nil {
		return nil, err
	}
	return c, probe.Remove()
}

// locate reads where the hierarchy is mounted and where this process is in it.
func locate(mounts, own string) (*Controller, error) {
	at := map[string]string{} // by controllers as /proc/self/cgroup names them; "" is version 2
	for _, line := range strings.Split(own, "\n") {
		parts := strings.SplitN(line, ":", 3)
		if len(parts) != 3 {
			continue
		}
		for _, controller := range strings.Split(parts[1], ",") {
			at[controller] = parts[2]
		}
	}
	for _, line := range strings.Split(mounts, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 {
			continue
		}
		switch mount, options := fields[1], strings.Split(fields[3], ","); fields[2] {
		case "cgroup":
			for _, o := range options {
				if path, ok := at["memory"]; ok && o == "memory" {
					return &Controller{dir: below(mount, path)}, nil
				}
			}
		case "cgroup2":
			path, ok := at[""]
			if !ok {
				continue
			}
			dir := below(mount, path)
			// A unit that delegates a subgroup runs the agent in a leaf: its
			// trainers belong beside it.
			if filepath.Base(dir) == leaf {
				dir = filepath.Dir(dir)
			}
			controllers, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
			if err == nil && strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " memory ") {
				return &Controller{dir: dir, v2: true}, nil
			}
		}
	}
	return nil, errors.New("no memory controller is mounted for this process")
}

// below joins a mount and a group's path. Inside a container the path may be
// the host's, and the mount shows the group itself.
func below(mount, path string) string {
	if dir := filepath.Join(mount, path); exists(dir) {
		return dir
	}
	return mount
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// leaf is the group that the agent itself moves to: in version 2 a group with
// children that have limits must not hold processes.
const leaf = "agent"

func (c *Controller) delegate() error {
	control := filepath.Join(c.dir, "cgroup.subtree_control")
	// Device memory too, where the kernel has it; nobody depends on it.
	defer func() { _ = write(control, "+dmem") }()
	if enabled, err := os.ReadFile(control); err == nil && strings.Contains(string(enabled), "memory") {
		return nil
	}
	if write(control, "+memory") == nil {
		return nil
	}
	if err := os.Mkdir(filepath.Join(c.dir, leaf), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := write(filepath.Join(c.dir, leaf, "cgroup.procs"), strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	return write(control, "+memory")
}

// Create makes a group whose processes together may use memory bytes, swap included;
// 0 leaves the memory unbounded.
func (c *Controller) Create(name string, memory int64) (*Group, error) {
	g := &Group{Dir: filepath.Join(c.dir, c.prefix+name), V2: c.v2}
	if err := os.Mkdir(g.Dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if memory == 0 {
		return g, nil
	}
	limit := strconv.FormatInt(memory, 10)
	hard, swap, swapLimit := "memory.max", "memory.swap.max", "0"
	if !c.v2 {
		hard, swap, swapLimit = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", limit
	}
	err := write(filepath.Join(g.Dir, hard), limit)
	if err == nil {
		if err = write(filepath.Join(g.Dir, swap), swapLimit); errors.Is(err, fs.ErrNotExist) {
			err = nil // a kernel without swap accounting
		}
	}
	if err != nil {
		return nil, errors.Join(err, g.Remove())
	}
	return g, nil
}

// Sweep removes the groups whose processes are all gone: their supervisors were killed.
func (c *Controller) Sweep() error {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), c.prefix) {
			continue
		}
		g := Group{Dir: filepath.Join(c.dir, e.Name()), V2: c.v2}
		if err := g.Remove(); err != nil && !errors.Is(err, unix.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Remove ends the group; EBUSY while a process is in it.
func (g *Group) Remove() error {
	if err := unix.Rmdir(g.Dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing %s: %w", filepath.Base(g.Dir), err)
	}
	return nil
}

// Kills returns how many of the group's processes the kernel killed at the limit.
func (g *Group) Kills() int {
	file := "memory.events"
	if !g.V2 {
		file = "memory.oom_control"
	}
	return procfs.Counter(filepath.Join(g.Dir, file), "oom_kill")
}

// Limit returns the group's bound in bytes; 0 means unknown.
func (g *Group) Limit() int64 {
	file := "memory.max"
	if !g.V2 {
		file = "memory.limit_in_bytes"
	}
	raw, err := os.ReadFile(filepath.Join(g.Dir, file))
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Fork runs start so that the process it forks begins in the group, and nothing
// of it ever runs outside; the caller stays where it is. The calling goroutine
// must be locked to its thread. start is given what its SysProcAttr needs.
func (g *Group) Fork(start func(*syscall.SysProcAttr) error) error {
	if g.V2 {
		fd, err := unix.Open(g.Dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening the control group: %w", err)
		}
		return errors.Join(start(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}), unix.Close(fd))
	}
	// Version 1 knows threads: this one goes in, forks, and comes back. What it
	// allocates meanwhile is charged by its process, which is not in the group.
	// "0" is the writing thread: given its number, the kernel would first wait until
	// every processor has passed a quiet point, about 10 ms.
	const thread = "0"
	home, err := homeOf("/proc")
	if err != nil {
		return err
	}
	if err := write(filepath.Join(g.Dir, "tasks"), thread); err != nil {
		return fmt.Errorf("entering the control group: %w", err)
	}
	err = start(&syscall.SysProcAttr{})
	return errors.Join(err, write(filepath.Join(home, "tasks"), thread))
}

// homeOf returns the directory of the caller's own group, version 1.
func homeOf(proc string) (string, error) {
	mounts, err := os.ReadFile(filepath.Join(proc, "self/mounts"))
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile(filepath.Join(proc, "thread-self/cgroup"))
	if err != nil {
		return "", err
	}
	c, err := locate(string(mounts), string(own))
	if err != nil {
		return "", err
	}
	return c.dir, nil
}

func write(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
