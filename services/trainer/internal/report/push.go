package report

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/checkpoint"
)

// chunkBytes is a quarter of the contract's bound: small enough to share the
// connection with the metrics.
const chunkBytes = 256 << 10

// push uploads one file to the host, again and again until the agent has it, the
// attempt is over, or ctx ends. Pushing the same content twice is free.
func (c *Client) push(ctx context.Context, f checkpoint.File) error {
	pause := 100 * time.Millisecond
	for {
		err := c.pushOnce(ctx, f)
		if err == nil {
			return nil
		}
		if fatal := refusal(err); fatal != nil {
			return fmt.Errorf("pushing %s: %w", f.Name, fatal)
		}
		wait := pause
		if e := rpcerr.FromError(err); e == nil {
			return fmt.Errorf("pushing %s: %w", f.Name, err)
		} else if e.Code() == codes.Internal || e.Code() == codes.DataLoss {
			return fmt.Errorf("pushing %s: %w", f.Name, err)
		} else if e.Retry() > 0 {
			wait = e.Retry()
		}
		select {
		case <-time.After(wait):
		case <-c.gone:
			return c.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func (c *Client) pushOnce(ctx context.Context, f checkpoint.File) (err error) {
	file, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.api.PushArtifact(ctx)
	if err != nil {
		return err
	}
	header := &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Header{
		Header: &trainv1.ArtifactHeader{Token: c.token, SizeBytes: f.Size}}}
	buffer := make([]byte, chunkBytes)
	err = stream.Send(header)
	for err == nil {
		n, rerr := io.ReadFull(file, buffer)
		if n > 0 {
			err = stream.Send(&trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Chunk{Chunk: buffer[:n]}})
		}
		if errors.Is(rerr, io.EOF) || errors.Is(rerr, io.ErrUnexpectedEOF) {
			break
		}
		if rerr != nil {
			return rerr
		}
	}
	if err == nil {
		err = stream.Send(&trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Footer{
			Footer: &trainv1.ArtifactFooter{Sha256: f.SHA256[:]}}})
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	// After io.EOF the receive has the agent's reason; it may also already have the content.
	answer, err := stream.CloseAndRecv()
	if err != nil {
		return err
	}
	if string(answer.GetSha256()) != string(f.SHA256[:]) {
		return fmt.Errorf("the agent stored %s with another digest", f.Name)
	}
	return nil
}
