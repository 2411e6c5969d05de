package tracefile

import (
	"context"
	"fmt"
	"net"

	collectorv1 "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	_ "google.golang.org/grpc/encoding/gzip" // exporters may compress
	"google.golang.org/grpc/status"
)

// maxExportBytes bounds one export.
const maxExportBytes = 16 << 20

// Receiver is the OTLP gRPC endpoint. It takes traces from loopback without
// authentication, as the exporters of this machine send them: a span names
// things, it decides nothing.
type Receiver struct {
	collectorv1.UnimplementedTraceServiceServer

	listener net.Listener
	server   *grpc.Server
	file     *writer
}

// NewReceiver opens the file for appending. Run serves and closes the listener.
func NewReceiver(listener net.Listener, path string) (*Receiver, error) {
	file, err := openWriter(path)
	if err != nil {
		return nil, fmt.Errorf("trace file: %w", err)
	}
	r := &Receiver{listener: listener, file: file, server: grpc.NewServer(grpc.MaxRecvMsgSize(maxExportBytes))}
	collectorv1.RegisterTraceServiceServer(r.server, r)
	return r, nil
}

// Run serves until ctx ends, then finishes the exports under way.
func (r *Receiver) Run(ctx context.Context) error {
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		r.server.GracefulStop()
	})
	err := r.server.Serve(r.listener)
	if !stop() {
		<-stopped
	}
	if closeErr := r.file.close(); err == nil {
		err = closeErr
	}
	return err
}

// Export implements the OTLP trace service.
func (r *Receiver) Export(_ context.Context, export *collectorv1.ExportTraceServiceRequest) (*collectorv1.ExportTraceServiceResponse, error) {
	if err := r.file.write(export); err != nil {
		return nil, status.Error(codes.Unavailable, "the trace file cannot be written")
	}
	return &collectorv1.ExportTraceServiceResponse{}, nil
}
