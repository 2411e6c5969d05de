// Command trainyard runs a training mesh on this machine and talks to one.
package main

import (
	"context"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/tools/internal/cli"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		return cli.Run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	})
}
