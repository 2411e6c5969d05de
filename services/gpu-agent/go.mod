module github.com/ultrathink-pilot/trainyard/services/gpu-agent

go 1.26.0

require (
	golang.org/x/sys v0.49.0
	pgregory.net/rapid v1.3.0
)

replace (
	github.com/ultrathink-pilot/trainyard/libs => ../../libs
	github.com/ultrathink-pilot/trainyard/proto => ../../proto
)
