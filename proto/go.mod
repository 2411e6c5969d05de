module github.com/ultrathink-pilot/trainyard/proto

go 1.26.0
