// Command checkpoint-janitor serves JanitorService, or decides offline:
//
//	checkpoint-janitor [flags]         the service; see --help
//	checkpoint-janitor plan [flags]    what a policy would do to an inventory file
package main

import (
	"context"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	janitor "github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/offline"
)

// version is set at link time.
var version = "dev"

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		args := os.Args[1:]
		if len(args) > 0 && args[0] == "plan" {
			return offline.Plan(args[1:], os.Stdin, os.Stdout)
		}
		var cfg janitor.Config
		if err := config.Load(janitor.Service, &cfg, args); err != nil {
			return err
		}
		j, err := janitor.New(ctx, cfg, janitor.Deps{Version: version})
		if err != nil {
			return err
		}
		return j.Run(ctx)
	})
}
