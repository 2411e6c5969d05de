package cgroup

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Where the hierarchy lies is read from what the kernel says, in each of its dialects.
func TestLocate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, d := range []string{"memory/a/b", "unified/user/agent", "empty"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "unified/user/cgroup.controllers"), []byte("cpu memory pids\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v1 := "cgroup " + dir + "/cpu cgroup rw,cpu 0 0\ncgroup " + dir + "/memory cgroup rw,relatime,memory 0 0\n"
	v2 := "cgroup2 " + dir + "/unified cgroup2 rw,nsdelegate 0 0\n"
	for name, c := range map[string]struct {
		mounts, own, want string
		v2                bool
	}{
		"version 1":                        {v1, "4:memory:/a/b\n1:cpu:/\n0::/\n", "memory/a/b", false},
		"version 1, path of another mount": {v1, "4:memory:/elsewhere\n", "memory", false},
		"version 2, in the delegated leaf": {v2, "0::/user/agent\n", "unified/user", true},
		"hybrid, memory in version 1":      {"cgroup2 " + dir + "/empty cgroup2 rw 0 0\n" + v1, "4:memory:/a/b\n0::/\n", "memory/a/b", false},
		"version 2 without memory":         {"cgroup2 " + dir + "/empty cgroup2 rw 0 0\n", "0::/\n", "", false},
		"nothing":                          {"", "", "", false},
	} {
		got, err := locate(c.mounts, c.own)
		if c.want == "" {
			if err == nil {
				t.Errorf("%s: %+v", name, got)
			}
			continue
		}
		if err != nil || got.dir != filepath.Join(dir, c.want) || got.v2 != c.v2 {
			t.Errorf("%s: %+v %v", name, got, err)
		}
	}
}

// The kernel holds a process that was forked into a group to its limit, and the
// group says so. Without the right to make groups this test has nothing to try.
func TestLimit(t *testing.T) {
	t.Parallel()
	c, err := Detect("/proc", t.Name())
	if err != nil {
		t.Skipf("this host lets us make no control group: %v", err)
	}
	g, err := c.Create(filepath.Base(t.TempDir()), 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	})
	if g.Limit() != 32<<20 || g.Kills() != 0 {
		t.Fatalf("limit %d, kills %d", g.Limit(), g.Kills())
	}
	// tail keeps its whole input when that has no line end.
	cmd := exec.Command("sh", "-c", "head -c 200000000 /dev/zero | tail")
	runtime.LockOSThread()
	err = g.Fork(func(attr *syscall.SysProcAttr) error {
		cmd.SysProcAttr = attr
		return cmd.Start()
	})
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a group in use was removed: %v", err)
	}
	if err := c.Sweep(); err != nil {
		t.Errorf("sweeping beside a group in use: %v", err)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("200 MB went through a group of 32 MB")
	}
	if g.Kills() == 0 {
		t.Error("the kernel counted no kill")
	}
	own, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil || strings.Contains(string(own), c.prefix) {
		t.Errorf("the caller stayed in the group: %s %v", own, err)
	}
}

// A process that is forked into a group of version 2 begins there, whatever
// controllers that hierarchy has; the caller stays where it was.
func TestForkVersion2(t *testing.T) {
	t.Parallel()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	mount := ""
	for _, line := range strings.Split(string(mounts), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			mount = fields[1]
		}
	}
	if mount == "" {
		t.Skip("SKIPPED: this host has no hierarchy of version 2")
	}
	g := &Group{Dir: filepath.Join(mount, "trainyard-test-"+filepath.Base(t.TempDir())), V2: true}
	if err := os.Mkdir(g.Dir, 0o755); err != nil {
		t.Skipf("SKIPPED: this host lets us make no group of version 2: %v", err)
	}
	cmd := exec.Command("sleep", "1000")
	if err := g.Fork(func(attr *syscall.SysProcAttr) error {
		cmd.SysProcAttr = attr
		return cmd.Start()
	}); err != nil {
		t.Fatal(errors.Join(err, g.Remove()))
	}
	members, err := os.ReadFile(filepath.Join(g.Dir, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(members)) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("members %q, child %d, %v", members, cmd.Process.Pid, err)
	}
	if err := g.Remove(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a group in use was removed: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it was killed
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
}
