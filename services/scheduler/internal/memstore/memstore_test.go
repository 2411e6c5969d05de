package memstore_test

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/cycle"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/memstore"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) cycle.Store { return memstore.New() })
}
