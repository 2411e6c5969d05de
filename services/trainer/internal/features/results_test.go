//go:build results

package features

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
)

const pssRows = 200_000

// TestPSSHelper is one trainer of the next test: it maps the table, reads all of it,
// and says how much of the file it holds when all others do too.
func TestPSSHelper(t *testing.T) {
	if os.Getenv("FEATURES_PSS_URL") == "" {
		t.Skip("runs as a child of TestResultsMemory")
	}
	c, err := New(Options{BaseURL: os.Getenv("FEATURES_PSS_URL"), CacheDir: os.Getenv("FEATURES_PSS_DIR")})
	if err != nil {
		t.Fatal(err)
	}
	s := mustTable(t, c)
	var sum float32
	for _, v := range s.Table.Features {
		sum += v
	}
	fmt.Fprintln(os.Stdout, "ready", sum)
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	mine, rss, pss := false, 0, 0
	for _, line := range strings.Split(string(text), "\n") {
		fields := strings.Fields(line)
		if len(fields) >= 5 && strings.Contains(fields[0], "-") {
			mine = strings.HasSuffix(line, ".arrow")
		}
		if mine && len(fields) == 3 {
			n, _ := strconv.Atoi(fields[1])
			switch fields[0] {
			case "Rss:":
				rss += n
			case "Pss:":
				pss += n
			}
		}
	}
	fmt.Fprintln(os.Stdout, "memory", rss, pss)
	_, _ = in.ReadString('\n')
}

// TestResultsMemory starts twenty trainers of one host and adds up what they hold of
// the feature table.
func TestResultsMemory(t *testing.T) {
	const trainers = 20
	s := newService(t)
	s.table = table(pssRows, 1)
	dir := t.TempDir()
	type child struct {
		in  io.WriteCloser
		out *bufio.Reader
		cmd *exec.Cmd
	}
	var all []child
	for range trainers {
		cmd := exec.Command(os.Args[0], "-test.run=^TestPSSHelper$")
		cmd.Env = append(os.Environ(), "FEATURES_PSS_URL="+s.server.URL, "FEATURES_PSS_DIR="+dir)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		all = append(all, child{in, bufio.NewReader(out), cmd})
	}
	line := func(c child, prefix string) []string {
		for {
			text, err := c.out.ReadString('\n')
			if strings.HasPrefix(text, prefix) {
				return strings.Fields(text)
			}
			if err != nil {
				t.Fatalf("%s: %v after %q", prefix, err, text)
			}
		}
	}
	for _, c := range all {
		line(c, "ready")
	}
	var rss, pss float64
	for _, c := range all {
		if _, err := io.WriteString(c.in, "now\n"); err != nil {
			t.Fatal(err)
		}
		f := line(c, "memory")
		r, _ := strconv.ParseFloat(f[1], 64)
		p, _ := strconv.ParseFloat(f[2], 64)
		rss, pss = rss+r/1024, pss+p/1024
	}
	for _, c := range all {
		_ = c.in.Close()
		_ = c.cmd.Wait()
	}
	e, err := (cache{dir: dir}).read(key{base: s.server.URL, symbol: "SPX", timeframe: "1d"})
	if err != nil {
		t.Fatal(err)
	}
	file := float64(e.Size) / (1 << 20)
	benchtable.Section{
		Page: "trainer.md", Title: "Twenty trainers share one copy of the features", Command: "make bench ONLY=services/trainer RESULTS=TestResultsMemory",
		Intro: "Twenty processes map the same table and read all of it; memory of the mapping, summed over them.",
		Rows: []benchtable.Row{
			{What: "file", Ours: benchtable.Of("MiB", file)},
			{What: "PSS of the mapping, all 20 together", Asked: "one copy", Ours: benchtable.Of("MiB", pss), Note: fmt.Sprintf("%.2f copies", pss/file)},
			{What: "RSS of the mapping, all 20 together (what 20 copies would take)", Ours: benchtable.Of("MiB", rss)},
			{What: "downloads", Asked: "1", Ours: benchtable.Of("", float64(s.full.Load()))},
		},
	}.Write(t)
}
