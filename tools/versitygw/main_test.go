package main

import (
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/versity/versitygw/backend/meta"
)

// The gateway's behaviour as an S3 server is tested where it is used, in
// libs/objectstore, through the real binary.

func TestPathsBecomeAbsolute(t *testing.T) {
	t.Chdir(t.TempDir())
	o, err := parse([]string{"--root", "buckets", "--sidecar", "side", "--cert", "c.pem", "--key", "k.pem"})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{o.root, o.sidecar, o.cert, o.key} {
		if !filepath.IsAbs(p) {
			t.Errorf("%q is relative, and the gateway changes its directory", p)
		}
	}
	if info, err := os.Stat(o.root); err != nil || !info.IsDir() {
		t.Errorf("the bucket directory was not made: %v", err)
	}
}

func TestBadArgumentsSayWhatToDo(t *testing.T) {
	for _, args := range [][]string{nil, {"--root", t.TempDir(), "extra"}} {
		if _, err := parse(args); err == nil || !strings.Contains(err.Error(), "usage: versitygw --root DIR") {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("help: %v", err)
	}
	t.Setenv("ROOT_ACCESS_KEY", "")
	if err := run(t.Context(), []string{"--root", t.TempDir()}); err == nil || !strings.Contains(err.Error(), "set ROOT_ACCESS_KEY") {
		t.Errorf("without keys: %v", err)
	}
}

func TestATakenPortIsNamed(t *testing.T) {
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	t.Setenv("ROOT_ACCESS_KEY", "a")
	t.Setenv("ROOT_SECRET_KEY", "b")
	err = run(t.Context(), []string{"--root", t.TempDir(), "--listen", lis.Addr().String()})
	if err == nil || !strings.Contains(err.Error(), "cannot listen on "+lis.Addr().String()) {
		t.Errorf("got %v", err)
	}
}

func TestWithoutExtendedAttributesTheSidecarIsUsed(t *testing.T) {
	none := func(string) error { return errors.New("operation not supported") }
	o := options{root: t.TempDir()}
	if _, _, err := metadata(o, none); err == nil || !strings.Contains(err.Error(), "--sidecar") {
		t.Errorf("without a sidecar: %v", err)
	}
	o.sidecar = filepath.Join(t.TempDir(), "side")
	storer, opts, err := metadata(o, none)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := storer.(meta.SideCar); !ok || opts.SideCarDir != o.sidecar {
		t.Errorf("got %T in %q", storer, opts.SideCarDir)
	}
	if opts.CopyObjectThreshold != 5<<30 {
		t.Errorf("copy threshold %d refuses copies", opts.CopyObjectThreshold)
	}
	storer, opts, err = metadata(o, func(string) error { return nil })
	if _, ok := storer.(meta.XattrMeta); err != nil || !ok || opts.SideCarDir != "" {
		t.Errorf("with attributes: %T, %q, %v", storer, opts.SideCarDir, err)
	}
}

func TestTheProbeLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	_ = probeXattr(dir) // either answer is right: it depends on the file system
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
