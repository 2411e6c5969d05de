//go:build results

package registry

import (
	"crypto/sha256"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/ultrathink-pilot/trainyard/libs/benchtable"
	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
)

// measuring keeps tests from running beside each other while figures are taken.
const measuring = true

func digestOfZeros(n int64) []byte {
	h := sha256.New()
	_, _ = io.Copy(h, &zeros{n}) // neither end fails
	return h.Sum(nil)
}

func partOf(n int, size int64, crc uint32) objectstore.Part {
	return objectstore.Part{Number: n, Size: size, CRC32C: crc, Checked: true}
}

// Three hundred kills under twenty writers, and the control that shows that the harness can
// see a loss.
func TestCampaignKills(t *testing.T) {
	var got, control killed
	// The control comes first: a harness that cannot see a loss need not run for minutes.
	t.Run("control", func(t *testing.T) {
		control = kill(t, killing{writers: 20, points: 200, server: 12, leastAcked: 100_000, lossy: true, pause: 700 * time.Millisecond})
		if control.lost == 0 {
			t.Fatal("a database that forgets lost nothing: the harness proves nothing")
		}
	})
	if t.Failed() {
		return
	}
	t.Run("durable", func(t *testing.T) {
		got = kill(t, killing{writers: 20, points: 200, registry: 200, server: 100, leastAcked: 5_000_000, pause: 700 * time.Millisecond})
		if got.lost != 0 || got.doubled != 0 {
			t.Errorf("%d acknowledged points are lost, %d are there twice", got.lost, got.doubled)
		}
	})
	if got.acked == 0 || control.acked == 0 {
		t.Skip("SKIPPED, NOT TESTED: a part was skipped, and its zeros are no figures")
	}
	t.Logf("%+v, control %+v", got, control)
	count := func(n int64) benchtable.Sample { return benchtable.Of("", float64(n)) }
	benchtable.Section{Page: resultsPage, Title: "SIGKILL of Postgres and registry under 20 writers", Command: "make campaign ONLY=services/registry CAMPAIGN=TestCampaignKills",
		Intro: fmt.Sprintf("Writers send batches of 200 points and send again what has no answer. %d kills of the registry and %d of Postgres (its postmaster) at random instants over %s. SIGKILL leaves the page cache alone: it proves a crash of the process, not a loss of power.",
			got.registry, got.server, got.took.Round(time.Second)),
		Rows: []benchtable.Row{
			{What: "points acknowledged", Asked: ">= 5,000,000", Ours: count(got.acked)},
			{What: "batches sent again", Ours: count(got.resent)},
			{What: "acknowledged points lost", Asked: "0", Ours: count(got.lost)},
			{What: "points stored twice", Asked: "0", Ours: count(got.doubled)},
			{What: fmt.Sprintf("control: lost with synchronous_commit=off, %d kills of Postgres, %d points acknowledged", control.server, control.acked), Asked: "> 0", Ours: count(control.lost)},
		}}.Write(t)
}

// A longer form of TestMirrorSurvivesKillsAndLostAnswers, into each MLflow that is there.
func TestCampaignMirror(t *testing.T) {
	for _, python := range mlflowServers(t) {
		const writers, kills = 12, 60
		got := mirrorCampaign(t, python, writers, kills)
		if t.Failed() {
			return
		}
		count := func(n int) benchtable.Sample { return benchtable.Of("", float64(n)) }
		benchtable.Section{Page: "mlflow.md", Title: "The mirror under SIGKILL and lost answers, into MLflow " + got.version,
			Command: "tools/dev/setup mlflow && TRAINYARD_TEST_MLFLOW_SERVER=$PWD/.cache/bin/mlflow2-python:$PWD/.cache/bin/mlflow3-python make campaign ONLY=services/registry CAMPAIGN=TestCampaignMirror",
			Intro: fmt.Sprintf("%d writers log to the registry's facade, register and promote, while its process is killed %d times at random instants and the way to a real MLflow server loses every eighth request or its answer after the commit. "+
				"Then both servers are read through the same API and compared: histories point by point, params, tags, states, files by content, versions, stages, aliases.", writers, kills),
			Rows: []benchtable.Row{
				{What: "requests lost on the way; answers lost after the commit", Ours: benchtable.Of("", float64(got.requests)), Note: fmt.Sprintf("%d answers", got.answers)},
				{What: "runs here and there", Asked: "equal sets, none twice", Ours: count(got.runs), Note: fmt.Sprintf("%d points, %d files", got.metrics, got.files)},
				{What: "versions here and there", Asked: "equal sets, none twice", Ours: count(got.versions)},
				{What: "dead letters", Asked: "0", Ours: count(int(got.dead))},
			}}.Write(t)
	}
}
