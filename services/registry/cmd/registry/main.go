// Command registry serves the model registry; see --help for its settings.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/services/registry"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		var cfg registry.Config
		if err := config.Load("registry", &cfg, os.Args[1:]); err != nil {
			return err
		}
		version := "devel"
		if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
			version = info.Main.Version
		}
		return registry.Run(ctx, cfg, version)
	})
}
