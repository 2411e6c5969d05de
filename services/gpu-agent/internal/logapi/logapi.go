// Package logapi is train.v1.LogService: what a trainer printed, for people.
package logapi

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	"github.com/ultrathink-pilot/trainyard/libs/rpcserver"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/lease"
)

// Allow is the table of callers.
var Allow = rpcserver.AllowTable{
	trainv1.LogService_FollowLogs_FullMethodName: {identity.RolePerson},
}

// Host knows the attempts.
type Host interface {
	// FindLogs returns the newest attempt of a job (number 0) or a certain one,
	// running or ended; false when this host has none.
	FindLogs(job string, attempt uint32) (lease.Key, bool)
	// OutputFiles returns an attempt's log files, oldest first.
	OutputFiles(key lease.Key) []string
	// Running says whether more may come.
	Running(key lease.Key) bool
}

// Server implements trainv1.LogServiceServer.
type Server struct {
	trainv1.UnsafeLogServiceServer
	host Host
}

// New returns a server over a host.
func New(h Host) *Server { return &Server{host: h} }

const (
	chunk = 64 << 10
	look  = 200 * time.Millisecond
)

// FollowLogs sends what there is and, on wish, what comes.
func (s *Server) FollowLogs(req *trainv1.FollowLogsRequest, stream trainv1.LogService_FollowLogsServer) error {
	key, ok := s.host.FindLogs(req.JobId, req.Attempt)
	if !ok {
		return rpcerr.NotFound("this host has no output of job %s attempt %d (0 is the newest)", req.JobId, req.Attempt)
	}
	files := s.host.OutputFiles(key)
	send := func(data []byte, truncated bool) error {
		return stream.Send(&trainv1.FollowLogsResponse{Data: data, Truncated: truncated})
	}
	if len(files) > 1 && req.TailBytes == 0 {
		if err := copyTail(files[0], 0, send); err != nil {
			return err
		}
	}
	if len(files) == 0 && !req.Follow {
		return nil
	}
	return s.follow(stream.Context(), key, req, send)
}

// copyTail sends a whole file from an offset.
func copyTail(path string, offset int64, send func([]byte, bool) error) (err error) {
	f, err := os.Open(path)
	if err != nil {
		return rpcerr.Unavailable("the output cannot be read").WithCause(err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	_, err = sendFrom(f, offset, send)
	return err
}

func sendFrom(f *os.File, offset int64, send func([]byte, bool) error) (int64, error) {
	buf := make([]byte, chunk)
	for {
		n, err := f.ReadAt(buf, offset)
		if n > 0 {
			offset += int64(n)
			if err := send(buf[:n], false); err != nil {
				return offset, err
			}
		}
		if errors.Is(err, io.EOF) {
			return offset, nil
		}
		if err != nil {
			return offset, rpcerr.Unavailable("the output cannot be read").WithCause(err)
		}
	}
}

// follow reads the newest file to its end, and over its rotation.
func (s *Server) follow(ctx context.Context, key lease.Key, req *trainv1.FollowLogsRequest, send func([]byte, bool) error) error {
	var f *os.File
	var offset int64
	defer func() {
		if f != nil {
			_ = f.Close() // read-only
		}
	}()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	draining := rpcserver.Draining(ctx)
	for {
		running := s.host.Running(key) // before reading: what was written before the end is read after it
		files := s.host.OutputFiles(key)
		if len(files) > 0 {
			newest := files[len(files)-1]
			rotated, err := replaced(f, newest)
			if err != nil {
				return rpcerr.Unavailable("the output cannot be read").WithCause(err)
			}
			if f != nil {
				if offset, err = sendFrom(f, offset, send); err != nil {
					return err
				}
			}
			if rotated {
				if f != nil {
					_ = f.Close() // read-only
				}
				first := f == nil
				if f, err = os.Open(newest); err != nil {
					return rpcerr.Unavailable("the output cannot be read").WithCause(err)
				}
				offset = 0
				if info, err := f.Stat(); err == nil && first && req.TailBytes > 0 && info.Size() > req.TailBytes {
					offset = info.Size() - req.TailBytes
					if err := send(nil, true); err != nil {
						return err
					}
				}
				if offset, err = sendFrom(f, offset, send); err != nil {
					return err
				}
			}
		}
		if !running || !req.Follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-draining:
			return rpcerr.Draining()
		case <-ticker.C:
		}
	}
}

// replaced says whether path is another file than the open one.
func replaced(f *os.File, path string) (bool, error) {
	if f == nil {
		return true, nil
	}
	now, err := os.Stat(path)
	if err != nil {
		return false, err
	}
	open, err := f.Stat()
	return err == nil && !os.SameFile(now, open), err
}
