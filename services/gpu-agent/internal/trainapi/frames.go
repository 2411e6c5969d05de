package trainapi

import (
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	trainv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/train/v1"
)

// MaxFrame bounds one frame in bytes.
const MaxFrame = 4 << 20

// maxChunk is the contract's bound of a chunk.
const maxChunk = 1 << 20

// Transport is how the trainers' server moves bytes. The windows are fixed: what a
// stalled upload holds in memory is bounded, and its attempt's Train stream has room
// beside it. Larger buffers mean fewer changes between the two processes.
func Transport() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{encoding.GetCodecV2(protocodec.Name)}),
		grpc.StaticStreamWindowSize(1 << 20), grpc.StaticConnWindowSize(3 << 20), grpc.ReadBufferSize(128 << 10),
	}
}

// codec is protobuf, except that the chunks of an upload are copied once, out of the
// transport's buffers into pooled ones, instead of twice into garbage.
type codec struct{ encoding.CodecV2 }

// Unmarshal implements encoding.CodecV2.
func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	if push, ok := v.(*trainv1.PushArtifactRequest); ok {
		if chunk, ok := chunkOf(data); ok {
			push.Frame = &trainv1.PushArtifactRequest_Chunk{Chunk: chunk}
			return nil
		}
	}
	return c.CodecV2.Unmarshal(data, v)
}

var chunks = sync.Pool{New: func() any { return new([maxChunk]byte) }}

// chunkField is the number of PushArtifactRequest.chunk.
const chunkField = 2

// chunkOf returns the content of a message that has a chunk and nothing else. Any
// other message is left to protobuf.
func chunkOf(data mem.BufferSlice) ([]byte, bool) {
	var start [2 * 10]byte // a tag and a length at their longest
	r := data.Reader()
	defer func() { _ = r.Close() }() // it only lets go of the buffers
	head := start[:min(len(start), data.Len())]
	for n := 0; n < len(head); {
		got, err := r.Read(head[n:])
		if n += got; err != nil && n < len(head) {
			return nil, false
		}
	}
	number, kind, tagged := protowire.ConsumeTag(head)
	if tagged < 0 || number != chunkField || kind != protowire.BytesType {
		return nil, false
	}
	length, sized := protowire.ConsumeVarint(head[tagged:])
	begin := tagged + sized
	if sized < 0 || length > maxChunk || uint64(data.Len()-begin) != length {
		return nil, false
	}
	chunk := chunks.Get().(*[maxChunk]byte)[:length]
	n := copy(chunk, head[begin:])
	for n < len(chunk) {
		got, err := r.Read(chunk[n:])
		if n += got; err != nil && n < len(chunk) {
			return nil, false
		}
	}
	return chunk, true
}

// recycle takes a chunk back that nobody reads any more.
func recycle(chunk []byte) {
	if cap(chunk) == maxChunk {
		chunks.Put((*[maxChunk]byte)(chunk[:maxChunk]))
	}
}

// oversized is the answer to a frame over the bound.
var oversized = rpcerr.New(codes.ResourceExhausted, errorv1.Reason_REASON_CAP_EXCEEDED, "a frame is over the limit of %d bytes", MaxFrame)

const detailsHeader = "grpc-status-details-bin"

// announce gives the transport the words for a frame that it refuses by itself: it
// writes the status before any handler can, without a reason. A status with details of
// its own takes their place; withdraw is for the one that has none, success.
func announce(stream grpc.ServerStream) {
	if raw, err := proto.Marshal(oversized.GRPCStatus().Proto()); err == nil {
		stream.SetTrailer(metadata.Pairs(detailsHeader, string(raw)))
	}
}

// withdraw makes the announced words void: of several details clients take none.
func withdraw(stream grpc.ServerStream) {
	stream.SetTrailer(metadata.Pairs(detailsHeader, ""))
}

// receive is Recv that says why a frame was refused.
func receive[F proto.Message](recv func() (F, error)) (F, error) {
	frame, err := recv()
	if s, ok := status.FromError(err); ok && s.Code() == codes.ResourceExhausted && rpcerr.ReasonOf(err) == errorv1.Reason_REASON_UNSPECIFIED {
		err = oversized
	}
	return frame, err
}
