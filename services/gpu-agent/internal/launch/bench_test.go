package launch_test

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/gpu-agent/internal/launch"
)

// BenchmarkStart is the time from a prepared attempt to its running trainer.
func BenchmarkStart(b *testing.B) {
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	l := launch.Launcher{Program: self}
	root := b.TempDir()
	var all []time.Duration
	for i := range b.N {
		dir := filepath.Join(root, strconv.Itoa(i))
		if err := os.Mkdir(dir, 0o700); err != nil {
			b.Fatal(err)
		}
		begun := time.Now()
		p, err := l.Start(b.Context(), dir, launch.Spec{Argv: []string{"/bin/sleep", "100"}, LogBytes: 1 << 20}, []byte("t"))
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(begun))
		if err := p.Kill(); err != nil {
			b.Fatal(err)
		}
		<-p.Done()
	}
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
}
