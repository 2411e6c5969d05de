//go:build results

package postgres_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// The ranks of SQL, with the guard that a table needs, against those of the plan, over random sets with
// NULL, NaN, both infinities and ties; and what the plain ORDER BY would have kept.
func TestCampaignRanks(t *testing.T) {
	const sets, batch = 100_000, 5_000
	pool := pgtest.New(t, postgres.Schema, postgres.Migrations)
	if _, err := pool.Exec(t.Context(), `CREATE TABLE ranked (set_id int, id text, sharpe double precision, create_time timestamptz)`); err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	r := rand.New(rand.NewPCG(7, 7))
	mismatches, plain, ranked := 0, 0, 0
	for from := 0; from < sets; from += batch {
		var rows [][]any
		var v retention.Inventory
		for set := from; set < from+batch; set++ {
			for i := range 1 + r.IntN(12) {
				c := retention.Checkpoint{ID: fmt.Sprintf("%06d-%02d", set, i), Experiment: fmt.Sprint(set), State: retention.StateLive,
					CreateTime: now.Add(-time.Duration(40+r.IntN(3)) * 24 * time.Hour)}
				var sharpe *float64
				put := func(f float64) { c.Sharpe = retention.Measured(f); sharpe = &f }
				switch r.IntN(8) {
				case 0:
				case 1:
					put(math.NaN())
				case 2:
					put(math.Inf(1))
				case 3:
					put(math.Inf(-1))
				case 4, 5:
					put(float64(r.IntN(3)))
				default:
					put(r.NormFloat64())
				}
				rows = append(rows, []any{set, c.ID, sharpe, c.CreateTime})
				v.Checkpoints = append(v.Checkpoints, c)
			}
		}
		if _, err := pool.Exec(t.Context(), `TRUNCATE ranked`); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.CopyFrom(t.Context(), pgx.Identifier{"ranked"}, []string{"set_id", "id", "sharpe", "create_time"}, pgx.CopyFromRows(rows)); err != nil {
			t.Fatal(err)
		}
		plan, err := retention.Decide(retention.DefaultPolicy(), v, now)
		if err != nil {
			t.Fatal(err)
		}
		got, err := pool.Query(t.Context(), `SELECT id,
			CASE WHEN sharpe IS NOT NULL AND sharpe <> 'NaN' AND sharpe NOT IN ('Infinity', '-Infinity') THEN row_number() OVER (
				PARTITION BY set_id, sharpe IS NOT NULL AND sharpe <> 'NaN' AND sharpe NOT IN ('Infinity', '-Infinity')
				ORDER BY sharpe DESC, create_time, id COLLATE "C") ELSE 0 END,
			row_number() OVER (PARTITION BY set_id ORDER BY sharpe DESC NULLS LAST, create_time, id COLLATE "C") FROM ranked`)
		if err != nil {
			t.Fatal(err)
		}
		var id string
		var guarded, naive int
		wrong := map[string]bool{}
		if _, err := pgx.ForEachRow(got, []any{&id, &guarded, &naive}, func() error {
			d, _ := plan.Find(id)
			if d.Rank != guarded {
				mismatches++
			}
			if guarded > 0 {
				ranked++
			}
			if guarded > 0 && guarded <= 5 && naive > 5 {
				wrong[id[:6]] = true
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		plain += len(wrong)
	}
	benchtable.Section{
		Page: "janitor.md", Title: "Ranks with NaN, infinities and NULL", Command: "make campaign ONLY=services/checkpoint-janitor CAMPAIGN=TestCampaignRanks",
		Intro: "Random sets of 1 to 12 checkpoints with NULL, NaN, both infinities and ties, ranked by Postgres with the guard of the registry's schema and by the plan.",
		Rows: []benchtable.Row{
			{What: "sets", Asked: "100,000", Ours: benchtable.Of("", sets)},
			{What: "checkpoints ranked", Ours: benchtable.Of("", float64(ranked))},
			{What: "ranks that differ between SQL and the plan", Asked: "0", Ours: benchtable.Of("", float64(mismatches))},
			{What: "sets where ORDER BY sharpe DESC NULLS LAST LIMIT 5 would delete one of the five best", Peer: benchtable.Of("", float64(plain)), PeerName: "plain SQL"},
		},
	}.Write(t)
	if mismatches > 0 || plain == 0 {
		t.Fatalf("%d mismatches; plain SQL was wrong %d times", mismatches, plain)
	}
}
