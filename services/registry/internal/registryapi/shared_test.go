package registryapi

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
)

func TestWatchersShareOneReadPerChange(t *testing.T) {
	t.Parallel()
	var s shared
	var reads atomic.Int32
	for generation := uint64(1); generation <= 3; generation++ {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				v, found, err := s.at("m", generation, func() (catalog.Version, bool, error) {
					reads.Add(1)
					return catalog.Version{Version: int32(generation)}, true, nil
				})
				if err != nil || !found || v.Version != int32(generation) {
					t.Errorf("generation %d: %+v %v %v", generation, v, found, err)
				}
			})
		}
		wg.Wait()
		if got := reads.Load(); got != int32(generation) {
			t.Fatalf("%d reads after %d changes", got, generation)
		}
	}
	away := errors.New("away")
	if _, _, err := s.at("m", 4, func() (catalog.Version, bool, error) { return catalog.Version{}, false, away }); !errors.Is(err, away) {
		t.Errorf("%v", err)
	}
	if v, _, err := s.at("m", 4, func() (catalog.Version, bool, error) { return catalog.Version{Version: 9}, true, nil }); err != nil || v.Version != 9 {
		t.Errorf("an error was kept: %+v %v", v, err)
	}
	if _, found, _ := s.at("other", 1, func() (catalog.Version, bool, error) { return catalog.Version{}, false, nil }); found {
		t.Error("two models share a reading")
	}
}
