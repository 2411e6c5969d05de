// Command versitygw is the S3 server of the embedded mesh and of the tests: the
// versitygw gateway over a directory. It is a module of its own, outside the
// workspace, so that the gateway's dependencies stay out of the services. The keys come
// from ROOT_ACCESS_KEY and ROOT_SECRET_KEY; a command line is public.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
)

// The gateway's library has no defaults for its limits: zero refuses everything.
const (
	copyThreshold  = 5 << 30 // S3's own bound for one copy
	maxConnections = 1024
	maxRequests    = 512
	maxParts       = 10000
)

type options struct {
	listen, root, sidecar, cert, key, health, region string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "versitygw:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	access, secret := os.Getenv("ROOT_ACCESS_KEY"), os.Getenv("ROOT_SECRET_KEY")
	if access == "" || secret == "" {
		return errors.New("set ROOT_ACCESS_KEY and ROOT_SECRET_KEY")
	}
	// The gateway says nothing of use when its port is taken.
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w; choose another --listen", o.listen, err)
	}
	if err := lis.Close(); err != nil {
		return err
	}
	storer, opts, err := metadata(o, probeXattr)
	if err != nil {
		return err
	}
	be, err := posix.New(o.root, storer, opts)
	if err != nil {
		return fmt.Errorf("open the bucket directory: %w", err)
	}
	return embedgw.RunVersityGW(ctx, be, &embedgw.Config{
		RootUserAccess:    access,
		RootUserSecret:    secret,
		Region:            o.region,
		Ports:             []string{o.listen},
		MaxConnections:    maxConnections,
		MaxRequests:       maxRequests,
		MultipartMaxParts: maxParts,
		CertFile:          o.cert,
		KeyFile:           o.key,
		KeepAlive:         true,
		Quiet:             true,
		HealthPath:        o.health,
	})
}

func parse(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("versitygw", flag.ContinueOnError)
	fs.StringVar(&o.listen, "listen", "127.0.0.1:7070", "host:port to serve S3 on")
	fs.StringVar(&o.root, "root", "", "directory of the buckets")
	fs.StringVar(&o.sidecar, "sidecar", "", "directory for metadata where the file system has no extended attributes")
	fs.StringVar(&o.cert, "cert", "", "PEM certificate; with --key it turns TLS on")
	fs.StringVar(&o.key, "key", "", "PEM key")
	fs.StringVar(&o.health, "health", "/healthz", "path that answers 200 to anybody")
	fs.StringVar(&o.region, "region", "us-east-1", "region name")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if o.root == "" || fs.NArg() > 0 {
		return o, errors.New("usage: versitygw --root DIR [--listen HOST:PORT] [--cert FILE --key FILE]; see --help")
	}
	// The gateway changes its working directory, so nothing may stay relative.
	for _, p := range []*string{&o.root, &o.sidecar, &o.cert, &o.key} {
		if *p == "" {
			continue
		}
		abs, err := filepath.Abs(*p)
		if err != nil {
			return o, err
		}
		*p = abs
	}
	return o, os.MkdirAll(o.root, 0o700)
}

// metadata keeps S3's metadata in extended attributes; where probe says that the file
// system has none, in files of a directory beside the buckets.
func metadata(o options, probe func(dir string) error) (meta.MetadataStorer, posix.PosixOpts, error) {
	opts := posix.PosixOpts{CopyObjectThreshold: copyThreshold}
	why := probe(o.root)
	if why == nil {
		return meta.XattrMeta{}, opts, nil
	}
	if o.sidecar == "" {
		return nil, opts, fmt.Errorf("%s has no extended attributes (%w); name a --sidecar directory", o.root, why)
	}
	if err := os.MkdirAll(o.sidecar, 0o700); err != nil {
		return nil, opts, err
	}
	side, err := meta.NewSideCar(o.sidecar)
	if err != nil {
		return nil, opts, fmt.Errorf("open the sidecar directory: %w", err)
	}
	opts.SideCarDir = o.sidecar
	return side, opts, nil
}

// probeXattr writes an attribute. The gateway's own test only reads one, which some file
// systems answer although they cannot store any.
func probeXattr(dir string) (err error) {
	f, err := os.CreateTemp(dir, ".xattr-*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	return syscall.Setxattr(f.Name(), "user.trainyard", []byte("1"), 0)
}
