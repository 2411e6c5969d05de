// Command pgbin prints the directory of the Postgres binaries, installing them first
// when the machine has none. `make` runs it before the tests, which never download.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/lifecycle"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgserver"
	"go.uber.org/zap"
)

func main() {
	lifecycle.Main(func(ctx context.Context) error {
		cfg := zap.NewDevelopmentConfig()
		cfg.Level = zap.NewAtomicLevelAt(zap.InfoLevel)
		cfg.DisableStacktrace = true
		log, err := cfg.Build()
		if err != nil {
			return err
		}
		bin, err := pgserver.Find(ctx, log)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(os.Stdout, bin.Dir)
		return err
	})
}
