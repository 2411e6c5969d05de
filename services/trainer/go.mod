module github.com/ultrathink-pilot/trainyard/services/trainer

go 1.26.0

require (
	github.com/ultrathink-pilot/trainyard/libs v0.0.0
	github.com/ultrathink-pilot/trainyard/proto v0.0.0
)

require golang.org/x/sys v0.48.0 // indirect

replace (
	github.com/ultrathink-pilot/trainyard/libs => ../../libs
	github.com/ultrathink-pilot/trainyard/proto => ../../proto
)
