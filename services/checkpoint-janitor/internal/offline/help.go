package offline

import (
	"errors"
	"flag"
	"fmt"
	"io"
)

// formats is what `plan --help` says beside its options; docs/janitor.md has every field.
const formats = `
The inventory has one JSON object per line; only checkpoint_id is required:
  {"checkpoint_id":"a1","experiment":"bull","run_id":"r1","step":100,"create_time":"2026-11-01T00:00:00Z","state":"live",
   "sharpe":1.42,"trades":120,"window":"2009/2014","run_active":false,"last_use":"2026-11-02T00:00:00Z","parents":["a0"],
   "references":[{"kind":"production","detail":"version 7 of bull_specialist"}],"files":[{"sha256":"aa","bytes":100}]}
  {"usage":{"used_bytes":900,"capacity_bytes":1000}}       (one line: lets the watermark apply)
sharpe may be "NaN", "Infinity", "-Infinity", null or left out. Kinds of references: production, staging, rollback, alias, version,
legal_hold, pin, restored (with "until"), warm_start, live_run, parent; any other protects too.

The policy is YAML; what is left out has its default:
  version: 1
  revision: desk-7
  grace: 7d
  rules:
    - experiments: ["search/*"]
      keep_top: 5
      archive_after: 30d
      delete_abandoned_after: 90d
    - experiments: ["*"]
Further keys of a rule: name, rank_by, confidence, min_trades, keep_last_per_live_job, young_for, drop_outranked_after,
drop_training_state, drop_files. Further blocks: caps, watermark. All are described in docs/janitor.md.
`

// wrong answers a command line that could not be read: one that asks for help gets it.
func wrong(flags *flag.FlagSet, err error, out io.Writer, more string) error {
	if !errors.Is(err, flag.ErrHelp) {
		return fmt.Errorf("%w\n%s", err, usage(flags))
	}
	if _, werr := fmt.Fprintf(out, "%s\n%s", usage(flags), more); werr != nil {
		return werr
	}
	return err
}
