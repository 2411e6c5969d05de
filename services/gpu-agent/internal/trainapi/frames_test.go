package trainapi

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/staging"
)

// pieces cuts an encoded message as the transport does, anywhere.
func pieces(rt *rapid.T, raw []byte) mem.BufferSlice {
	var out mem.BufferSlice
	for len(raw) > 0 {
		n := rapid.IntRange(1, len(raw)).Draw(rt, "piece")
		out, raw = append(out, mem.SliceBuffer(raw[:n])), raw[n:]
	}
	return out
}

// Whatever comes, in whatever pieces, is decoded as protobuf decodes it: a chunk by the
// short way, everything else by the usual one.
func TestCodec(t *testing.T) {
	t.Parallel()
	c := codec{encoding.GetCodecV2(protocodec.Name)}
	rapid.Check(t, func(rt *rapid.T) {
		message := rapid.OneOf(
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 300), func(b []byte) proto.Message {
				return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Chunk{Chunk: b}}
			}),
			rapid.Map(rapid.SliceOfN(rapid.Byte(), 0, 40), func(b []byte) proto.Message {
				return &trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Header{Header: &trainv1.ArtifactHeader{Token: b, SizeBytes: 7}}}
			}),
			rapid.Map(rapid.Bool(), func(bool) proto.Message { return &trainv1.PushArtifactRequest{} }),
		).Draw(rt, "message")
		raw, err := proto.Marshal(message)
		if err != nil {
			rt.Fatal(err)
		}
		switch rapid.IntRange(0, 3).Draw(rt, "bent") {
		case 1: // a chunk twice: the last one counts
			raw = append(raw, raw...)
		case 2: // cut off
			raw = raw[:rapid.IntRange(0, len(raw)).Draw(rt, "cut")]
		case 3: // any bytes
			raw = rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(rt, "raw")
		}
		var got, want trainv1.PushArtifactRequest
		gotErr, wantErr := c.Unmarshal(pieces(rt, raw), &got), proto.Unmarshal(raw, &want)
		if (gotErr == nil) != (wantErr == nil) || wantErr == nil && !proto.Equal(&got, &want) {
			rt.Fatalf("%x: %v %v, want %v %v", raw, &got, gotErr, &want, wantErr)
		}
	})
}

// A chunk that goes back to the pool comes out again without its old end, and one over
// the contract's bound is left to the rules that refuse it.
func TestChunks(t *testing.T) {
	t.Parallel()
	for _, size := range []int{maxChunk, 3, 0, maxChunk + 1} {
		raw, err := proto.Marshal(&trainv1.PushArtifactRequest{Frame: &trainv1.PushArtifactRequest_Chunk{Chunk: bytes.Repeat([]byte{byte(size)}, size)}})
		if err != nil {
			t.Fatal(err)
		}
		chunk, ok := chunkOf(mem.BufferSlice{mem.SliceBuffer(raw)})
		if ok != (size <= maxChunk) || ok && !bytes.Equal(chunk, bytes.Repeat([]byte{byte(size)}, size)) {
			t.Errorf("%d bytes: %d came, %v", size, len(chunk), ok)
		}
		recycle(chunk)
	}
	recycle(make([]byte, 5)) // not of the pool
}

// What the host has no room for is refused as that, with the time to try again, whether
// a bound of ours or the disk says so.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	for _, err := range []error{staging.ErrFull, syscall.ENOSPC, syscall.EDQUOT} {
		got := rpcerr.FromError(pushError(fmt.Errorf("making room: %w", err)))
		if got.Reason() != errorv1.Reason_REASON_SPOOL_FULL || got.Retry() == 0 {
			t.Errorf("%v: %v", err, got)
		}
	}
}
