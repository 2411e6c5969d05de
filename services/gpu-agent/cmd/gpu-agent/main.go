// Command gpu-agent runs one host of the fleet; see --help for its settings.
// Called as "gpu-agent supervise DIR", by itself only, it watches over one
// trainer and never reaches main.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	gpuagent "github.com/ultrathink-pilot/trainyard/services/gpu-agent"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		var cfg gpuagent.Config
		if err := config.Load("agent", &cfg, os.Args[1:]); err != nil {
			return err
		}
		version := "devel"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			version = info.Main.Version
		}
		return gpuagent.Run(ctx, cfg, version)
	})
}
