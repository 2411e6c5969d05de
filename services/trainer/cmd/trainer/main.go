// Command trainer runs one attempt of a training job. A gpu-agent starts it; by
// hand it only says so.
package main

import (
	"context"

	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/services/trainer"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		cfg, err := trainer.FromEnvironment()
		if err != nil {
			return err
		}
		return trainer.Run(ctx, cfg)
	})
}
