package ceiling

import (
	"testing"

	"github.com/ultrathink-pilot/trainyard/services/trainer/internal/learner/kernel"
)

// TestEveryVectorFormHasACeiling, and nothing else has one.
func TestEveryVectorFormHasACeiling(t *testing.T) {
	t.Parallel()
	for _, name := range kernel.Names() {
		if got := Flops(name, 100) > 0; got != (name != "portable") {
			t.Errorf("%s: %v", name, got)
		}
	}
	if Flops("abacus", 1) != 0 || Flops("avx2", 0) != 0 {
		t.Error("work was counted that nobody did")
	}
}
