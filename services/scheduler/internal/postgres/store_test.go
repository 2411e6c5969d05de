package postgres_test

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/pg/pgtest"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/postgres"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/storetest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) cycle.Store {
		return postgres.New(pgtest.New(t, postgres.Schema, postgres.Migrations))
	})
}
