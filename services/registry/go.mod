module github.com/ultrathink-pilot/trainyard/services/registry

go 1.26.0

require (
	github.com/google/uuid v1.6.0
	github.com/jackc/pgx/v5 v5.12.0
	github.com/ultrathink-pilot/trainyard/libs v0.0.0
	github.com/ultrathink-pilot/trainyard/proto v0.0.0
	go.opentelemetry.io/otel v1.47.0
	go.opentelemetry.io/otel/trace v1.47.0
	go.uber.org/zap v1.28.0
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
	pgregory.net/rapid v1.3.0
)

replace (
	github.com/ultrathink-pilot/trainyard/libs => ../../libs
	github.com/ultrathink-pilot/trainyard/proto => ../../proto
)
