// Command dataservice serves features of market history for development: the
// built-in S&P 500 and every CSV of a directory.
package main

import (
	"context"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		var cfg dataservice.Config
		if err := config.Load("dataservice", &cfg, os.Args[1:]); err != nil {
			return err
		}
		return dataservice.Run(ctx, cfg)
	})
}
