// Package offline works on files, without any service. Plan says what a policy
// would do to an inventory at a time, and why; it calls the same code as the
// service, so its plan has the same hash. Adopt makes an inventory of a directory
// of old checkpoints, Pack and Unpack keep one file without loss.
package offline

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/policyfile"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Plan runs `checkpoint-janitor plan`.
func Plan(args []string, stdin io.Reader, out io.Writer) (err error) {
	flags := flag.NewFlagSet("checkpoint-janitor plan", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	from := flags.String("inventory", "", "inventory file, JSON lines; - is standard input")
	policyPath := flags.String("policy", "", "policy file; empty is the built-in default")
	at := flags.String("now", "", "the instant to decide for, RFC 3339")
	form := flags.String("o", "text", "text or json")
	if err := flags.Parse(args); err != nil {
		return wrong(flags, err, out, formats)
	}
	var problems []error
	if *from == "" {
		problems = append(problems, errors.New("--inventory is missing; give a file of JSON lines, or - for standard input"))
	}
	now, terr := time.Parse(time.RFC3339, *at)
	if terr != nil {
		problems = append(problems, fmt.Errorf("--now is %q; give an instant such as 2026-11-23T12:00:00Z, so that the plan can be replayed", *at))
	}
	if *form != "text" && *form != "json" {
		problems = append(problems, fmt.Errorf("-o is %q; give text or json", *form))
	}
	if flags.NArg() > 0 {
		problems = append(problems, fmt.Errorf("%q is no option", flags.Arg(0)))
	}
	policy, _, perr := policyfile.Load(*policyPath)
	problems = append(problems, perr)
	var stock retention.Inventory
	if *from != "" {
		var rerr error
		stock, rerr = read(*from, stdin)
		problems = append(problems, rerr)
	}
	if err := errors.Join(problems...); err != nil {
		return err
	}
	plan, err := retention.Decide(policy, stock, now)
	if err != nil {
		return err
	}
	// What a sweep would be refused for; a file has neither a bucket nor an earlier run.
	refusals := retention.Guard(policy.Caps, plan, stock, retention.Circumstances{Now: now, Attended: true})
	if *form == "json" {
		return writeJSON(out, plan, refusals)
	}
	return writeText(out, plan, refusals)
}

func usage(flags *flag.FlagSet) string {
	text := "options of " + flags.Name() + ":"
	flags.VisitAll(func(f *flag.Flag) {
		dash := "--"
		if len(f.Name) == 1 {
			dash = "-"
		}
		text += fmt.Sprintf("\n  %s%s: %s", dash, f.Name, f.Usage)
	})
	return text
}

func read(path string, stdin io.Reader) (_ retention.Inventory, err error) {
	if path == "-" {
		return inventory.ReadJSONL(stdin)
	}
	f, err := os.Open(path)
	if err != nil {
		return retention.Inventory{}, fmt.Errorf("open the inventory: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return inventory.ReadJSONL(f)
}

type planJSON struct {
	PlanHash      string         `json:"plan_hash"`
	PolicyVersion string         `json:"policy_version"`
	PolicyHash    string         `json:"policy_hash"`
	InventoryHash string         `json:"inventory_hash"`
	PlanTime      time.Time      `json:"plan_time"`
	Tightened     bool           `json:"tightened"`
	Refusals      []refusalJSON  `json:"refusals"`
	Totals        []totalJSON    `json:"totals"`
	Decisions     []decisionJSON `json:"decisions"`
}

// refusalJSON is a cap that a sweep with this plan would run into.
type refusalJSON struct {
	Code        retention.RefusalCode `json:"code"`
	Text        string                `json:"text"`
	Confirmable bool                  `json:"confirmable"`
}

type totalJSON struct {
	Action     string         `json:"action"`
	Rule       retention.Code `json:"rule"`
	Count      int            `json:"count"`
	Bytes      int64          `json:"size_bytes"`
	FreedBytes int64          `json:"freed_bytes"`
}

type decisionJSON struct {
	CheckpointID string             `json:"checkpoint_id"`
	Experiment   string             `json:"experiment"`
	RunID        string             `json:"run_id,omitempty"`
	Step         int64              `json:"step"`
	Action       string             `json:"action"`
	Reason       string             `json:"reason"`
	Reasons      []retention.Reason `json:"reasons"`
	Rule         string             `json:"rule,omitempty"`
	State        string             `json:"state"`
	Rank         int                `json:"rank,omitempty"`
	Bytes        int64              `json:"size_bytes"`
	FreedBytes   int64              `json:"freed_bytes,omitempty"`
}

func writeJSON(w io.Writer, p retention.Plan, refusals []retention.Refusal) error {
	out := planJSON{
		PlanHash: p.Hash, PolicyVersion: p.Revision, PolicyHash: p.PolicyHash, InventoryHash: p.InventoryHash,
		PlanTime: p.Now, Tightened: p.Tightened, Totals: []totalJSON{}, Decisions: []decisionJSON{},
		Refusals: []refusalJSON{},
	}
	for _, r := range refusals {
		out.Refusals = append(out.Refusals, refusalJSON{r.Code, r.Text, r.Confirmable})
	}
	for _, t := range p.ByReason() {
		out.Totals = append(out.Totals, totalJSON{t.Verdict.String(), t.Code, t.Objects, t.Bytes, t.FreedBytes})
	}
	for _, d := range p.Decisions {
		out.Decisions = append(out.Decisions, decisionJSON{
			CheckpointID: d.ID, Experiment: d.Experiment, RunID: d.RunID, Step: d.Step, Action: d.Verdict.String(),
			Reason: d.Text(), Reasons: d.Reasons, Rule: d.Rule, State: d.State.String(), Rank: d.Rank, Bytes: d.Bytes, FreedBytes: d.FreedBytes,
		})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(out)
}

func writeText(w io.Writer, p retention.Plan, refusals []retention.Refusal) error {
	t := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	line := func(format string, args ...any) { _, _ = fmt.Fprintf(t, format+"\n", args...) } // Flush reports the error
	line("plan %s, policy %s, for %s", p.Hash[:16], p.Revision, p.Now.UTC().Format(time.RFC3339))
	if p.Tightened {
		line("the disk is full beyond its watermark: tighter limits apply")
	}
	line("\nACTION\tRULE\tCHECKPOINTS\tBYTES\tFREED")
	for _, r := range p.ByReason() {
		line("%s\t%s\t%d\t%s\t%s", r.Verdict, r.Code, r.Objects, retention.Bytes(r.Bytes), retention.Bytes(r.FreedBytes))
	}
	line("\nCHECKPOINT\tEXPERIMENT\tBYTES\tDECISION")
	for _, d := range p.Decisions {
		line("%s\t%s\t%s\t%s", d.ID, d.Experiment, retention.Bytes(d.Bytes), d.Text())
	}
	for _, r := range refusals {
		line("\na sweep would be refused (%s): %s", r.Code, r.Text)
	}
	return t.Flush()
}
