package mlflowapi

import (
	"strings"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/filter"
)

// MLflow shows a run's UUID as 32 hex digits, everybody else with dashes, and the registry
// keeps the dashes. Both are read everywhere, so that a job's id works in an MLflow client.

// keptID is a run's id as the registry keeps it.
func keptID(id string) string {
	if len(id) != 32 || strings.Trim(id, "0123456789abcdef") != "" {
		return id
	}
	return id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:]
}

// shownID is a run's id as MLflow shows it.
func shownID(id string) string {
	if len(id) != 36 || id[8] != '-' {
		return id
	}
	return strings.ReplaceAll(id, "-", "")
}

// keptIDs rewrites what a filter compares run ids with. A pattern is compared with the
// digits alone.
func keptIDs(clauses []filter.Clause) {
	for i, c := range clauses {
		if c.Entity != filter.Attribute || c.Key != "run_id" && c.Key != "source_run_id" {
			continue
		}
		switch c.Op {
		case "LIKE", "ILIKE":
			clauses[i].Key += "_digits"
		default:
			clauses[i].Text = keptID(c.Text)
			for j, id := range c.List {
				clauses[i].List[j] = keptID(id)
			}
		}
	}
}
