// Command checkpoint-janitor serves JanitorService, or decides offline:
//
//	checkpoint-janitor [flags]             the service; see --help
//	checkpoint-janitor plan [flags]        what a policy would do to an inventory file
//	checkpoint-janitor replay PLAN_HASH    decide a stored plan again and compare
//	checkpoint-janitor adopt [flags] DIR   bring a directory of old checkpoint files under a policy
//	checkpoint-janitor pack|unpack ...     pack one checkpoint file without loss
package main

import (
	"context"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/config"
	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	janitor "github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/offline"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/replay"
)

// version is set at link time.
var version = "dev"

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		args := os.Args[1:]
		if len(args) > 0 {
			switch args[0] {
			case "plan":
				return offline.Plan(args[1:], os.Stdin, os.Stdout)
			case "adopt":
				return offline.Adopt(ctx, args[1:], os.Stdout, os.Stderr)
			case "pack":
				return offline.Pack(args[1:], os.Stdout)
			case "unpack":
				return offline.Unpack(args[1:], os.Stdout)
			case "replay":
				return replay.Run(ctx, args[1:], os.Getenv("TRAINYARD_CHECKPOINT_JANITOR_DSN"), os.Stdout)
			}
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
