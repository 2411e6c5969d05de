package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ultrathink-pilot/trainyard/tools/internal/mesh"
)

// BusyError says that another launcher runs on the state directory.
type BusyError struct {
	State string
	PID   int
}

func (e *BusyError) Error() string {
	return fmt.Sprintf("a mesh already runs on %s (process %d): use it, stop it, or give this one its own --state", e.State, e.PID)
}

// lockState takes the directory for this process. The lock ends with the
// process, however that ends.
func lockState(state string) (unlock func() error, err error) {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(state, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the state directory: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		data, _ := os.ReadFile(file.Name()) // only for the message
		pid, _ := strconv.Atoi(strings.TrimSpace(string(data)))
		return nil, errors.Join(&BusyError{State: state, PID: pid}, file.Close())
	}
	if err = file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock the state directory: %w", err), file.Close())
	}
	return func() error {
		// Closing alone is not enough: a child between fork and exec holds the lock with us.
		return errors.Join(unix.Flock(int(file.Fd()), unix.LOCK_UN), file.Close())
	}, nil
}

// records keeps the processes of this run on disk, so that the next run can end
// what a killed launcher left.
type records struct {
	path string

	mu    sync.Mutex
	units map[string]mesh.Process
}

func openRecords(state string) (*records, error) {
	r := &records{path: filepath.Join(state, "processes.json"), units: map[string]mesh.Process{}}
	data, err := os.ReadFile(r.path)
	if errors.Is(err, os.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &r.units); err != nil {
		// A torn file of a crash: what it named is killed by the kernel with the launcher.
		r.units = map[string]mesh.Process{}
	}
	return r, nil
}

// put records a started process; a process that has already ended is not recorded.
func (r *records) put(name string, pid int) error {
	process, err := mesh.ProcessOf(pid)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.units[name] = process
	return r.write()
}

func (r *records) clear() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.units = map[string]mesh.Process{}
	return r.write()
}

func (r *records) write() error {
	data, err := json.MarshalIndent(r.units, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(r.path+".new", r.path)
}

// sweep ends recorded processes that still run: politely, then by force.
func (r *records) sweep(event func(Event)) error {
	r.mu.Lock()
	left := map[string]mesh.Process{}
	for name, p := range r.units {
		if p.Alive() {
			left[name] = p
		}
	}
	r.mu.Unlock()
	if err := endProcesses(left, event); err != nil {
		return err
	}
	return r.clear()
}

// sweepPatience is what a leftover gets to end by itself.
const sweepPatience = 3 * time.Second

func endProcesses(left map[string]mesh.Process, event func(Event)) error {
	for name, p := range left {
		event(Event{Unit: name, Kind: Swept, PID: p.PID})
	}
	for round := range 2 {
		for name, p := range left {
			signal := []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL}[round]
			if name == postgresUnit {
				// Its SIGTERM waits for clients, and its SIGKILL would leave its workers.
				signal = []syscall.Signal{syscall.SIGINT, syscall.SIGQUIT}[round]
			}
			if err := syscall.Kill(p.PID, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end %s (process %d) of an earlier run: %w", name, p.PID, err)
			}
		}
		for deadline := time.Now().Add(sweepPatience); len(left) > 0 && time.Now().Before(deadline); time.Sleep(readyPoll) {
			for name, p := range left {
				if !p.Alive() {
					delete(left, name)
				}
			}
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("%d processes of an earlier run cannot be ended", len(left))
	}
	return nil
}

// endTrainers ends the trainers of a state directory, with whatever they started:
// they are children of the agent and outlive it on purpose, for a successor that
// will not come before the next start. They are killed, supervisors first, so
// that no exit is recorded: like after a power loss the jobs go on from their
// last checkpoint and no retry is spent.
func endTrainers(state string) error {
	for deadline := time.Now().Add(sweepPatience); ; time.Sleep(readyPoll) {
		supervisors, rest := trainersOf(state)
		found := append(supervisors, rest...)
		if len(found) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d trainer processes cannot be ended, first %d", len(found), found[0].PID)
		}
		for _, p := range found {
			if err := syscall.Kill(p.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end trainer process %d: %w", p.PID, err)
			}
		}
	}
}

// trainersOf finds the agent's supervisors of a state directory by their command
// line, and trainers and all they started by the socket in their environment.
func trainersOf(state string) (supervisors, rest []mesh.Process) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, nil
	}
	below := state + string(filepath.Separator)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		p, err := mesh.ProcessOf(pid)
		if err != nil || !p.Alive() {
			continue
		}
		// Other users' processes cannot be read, and are none of ours.
		line, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		environ, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "environ"))
		args := strings.Split(string(line), "\x00")
		switch {
		case len(args) > 2 && args[1] == "supervise" && strings.HasPrefix(args[2], below):
			supervisors = append(supervisors, p)
		case strings.Contains("\x00"+string(environ), "\x00TRAINYARD_SOCKET="+below):
			rest = append(rest, p)
		}
	}
	return supervisors, rest
}

// The range from which ports are taken. It lies below the range of outgoing
// connections, so that none of those takes a service's port while it restarts.
const (
	firstPort = 21000
	lastPort  = 29999
)

// ports gives each listener a port and keeps it over restarts of the mesh, so
// that dashboards and scripts stay right.
type ports struct {
	path  string
	fixed map[string]int
	kept  map[string]int
	taken map[int]bool
}

func openPorts(state string, fixed map[string]int) (*ports, error) {
	p := &ports{path: filepath.Join(state, "ports.json"), fixed: fixed, kept: map[string]int{}, taken: map[int]bool{}}
	data, err := os.ReadFile(p.path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &p.kept); err != nil {
		p.kept = map[string]int{} // Ports are a convenience: new ones are as good.
	}
	return p, nil
}

// PortError says that a port a person asked for is in use.
type PortError struct {
	Name string
	Port int
}

func (e *PortError) Error() string {
	return fmt.Sprintf("port %d for %s is in use by another process: stop that one, or choose another with --port %s=PORT", e.Port, e.Name, e.Name)
}

// address returns host:port on loopback for a listener.
func (p *ports) address(name string) (string, error) {
	if port, ok := p.fixed[name]; ok {
		if p.taken[port] || !free(port) {
			return "", &PortError{Name: name, Port: port}
		}
		return p.take(name, port), nil
	}
	if port := p.kept[name]; port > 0 && !p.taken[port] && free(port) {
		return p.take(name, port), nil
	}
	// Meshes of one machine start at different places, so that they rarely meet.
	reserved := map[int]bool{}
	for other, port := range p.kept {
		reserved[port] = other != name
	}
	start := os.Getpid() * 37 % (lastPort - firstPort)
	for i := range lastPort - firstPort {
		port := firstPort + (start+i)%(lastPort-firstPort)
		if !p.taken[port] && !reserved[port] && free(port) {
			return p.take(name, port), nil
		}
	}
	return "", fmt.Errorf("no free port between %d and %d for %s", firstPort, lastPort, name)
}

func (p *ports) take(name string, port int) string {
	p.kept[name] = port
	p.taken[port] = true
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}

func free(port int) bool {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return listener.Close() == nil
}

func (p *ports) write() error {
	data, err := json.MarshalIndent(p.kept, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(p.path, append(data, '\n'), 0o644)
}

// unknownFixed returns names that a person fixed and no listener has.
func (p *ports) unknownFixed(known []string) error {
	for name := range p.fixed {
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !found {
			sort.Strings(known)
			return fmt.Errorf("--port %s: there is no such listener; the names are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}
