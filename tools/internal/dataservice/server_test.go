package dataservice

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/feature"
)

func newServer(t *testing.T, files map[string]string) (*Server, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		write(t, dir, name, text)
	}
	s, err := NewServer(dir, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s *Server, path string, headers ...string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func decodeError(t *testing.T, w *httptest.ResponseRecorder) apiError {
	t.Helper()
	var e apiError
	if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
		t.Fatalf("%v in %q", err, w.Body.String())
	}
	return e
}

// walk is a CSV of n daily bars.
func walk(n int) string {
	var b strings.Builder
	b.WriteString("date,open,high,low,close,volume\n")
	for i := range n {
		c := 100 * math.Exp(0.1*math.Sin(float64(i)/9))
		fmt.Fprintf(&b, "%s,%g,%g,%g,%g,%d\n", time.Date(2015, 1, 1+i, 0, 0, 0, 0, time.UTC).Format(time.DateOnly), c, c*1.01, c*0.99, c, 100+i%7)
	}
	return b.String()
}

func TestJSONAndArrowSayTheSame(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, nil)
	for _, timeframe := range []string{"1d", "1w"} {
		path := "/api/v1/features/SPX/" + timeframe
		var fromJSON tableJSON
		w := get(t, s, path)
		if err := json.Unmarshal(w.Body.Bytes(), &fromJSON); err != nil || w.Code != http.StatusOK {
			t.Fatalf("%d %v", w.Code, err)
		}
		a := get(t, s, path, "Accept", mediaArrow+", "+mediaJSON+";q=0.5")
		if got := a.Header().Get("Content-Type"); got != mediaArrow {
			t.Fatalf("content type %q", got)
		}
		sum := sha256.Sum256(a.Body.Bytes())
		if got, want := a.Header().Get("Repr-Digest"), "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":"; got != want {
			t.Errorf("Repr-Digest %q, want %q", got, want)
		}
		r, err := ipc.NewFileReader(bytes.NewReader(a.Body.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		metadata := r.Schema().Metadata()
		if v, _ := metadata.GetValue("digest"); v != fromJSON.Digest {
			t.Errorf("digest %q in Arrow, %q in JSON", v, fromJSON.Digest)
		}
		record, err := r.RecordBatchAt(0)
		if err != nil {
			t.Fatal(err)
		}
		if r.NumRecords() != 1 || int(record.NumRows()) != fromJSON.Bars || fromJSON.Bars != len(fromJSON.Dates) {
			t.Fatalf("%d records, %d rows, %d bars, %d dates", r.NumRecords(), record.NumRows(), fromJSON.Bars, len(fromJSON.Dates))
		}
		features := record.Column(3).(*array.FixedSizeList).ListValues().(*array.Float32).Float32Values()
		regimes := record.Column(2).(*array.Uint8).Uint8Values()
		for i, row := range fromJSON.Features {
			for j, v := range row {
				if features[i*len(row)+j] != v {
					t.Fatalf("row %d %s: %v in Arrow, %v in JSON", i, fromJSON.FeatureNames[j], features[i*len(row)+j], v)
				}
			}
			if regimeCodes[regimes[i]] != fromJSON.Regimes[i] {
				t.Fatalf("row %d: regime %d in Arrow, %s in JSON", i, regimes[i], fromJSON.Regimes[i])
			}
		}
		if fromJSON.SchemaVersion != feature.SchemaVersion {
			t.Errorf("schema version %q", fromJSON.SchemaVersion)
		}
	}
}

func TestETag(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, nil)
	const path = "/api/v1/features/SPX/1d"
	tag := get(t, s, path).Header().Get("ETag")
	if w := get(t, s, path, "If-None-Match", `"x", `+tag); w.Code != http.StatusNotModified || w.Body.Len() != 0 {
		t.Errorf("%d with %d bytes for the current tag", w.Code, w.Body.Len())
	}
	if w := get(t, s, path, "If-None-Match", tag, "Accept", mediaArrow); w.Code != http.StatusOK {
		t.Errorf("%d: JSON's tag stood for Arrow's bytes", w.Code)
	}
}

func TestRange(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, nil)
	table := func(query string) tableJSON {
		var out tableJSON
		if err := json.Unmarshal(get(t, s, "/api/v1/features/SPX/1d"+query).Body.Bytes(), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all, part := table(""), table("?start=2010-01-01&end=2010-12-31")
	if part.Bars != 252 || part.Dates[0] != "2010-01-04T00:00:00Z" || part.Dates[251] != "2010-12-31T00:00:00Z" {
		t.Fatalf("%d bars from %s", part.Bars, part.Dates[0])
	}
	if part.Digest == all.Digest {
		t.Error("a part has the digest of the whole")
	}
	for i, d := range all.Dates {
		if d == part.Dates[0] && all.Features[i][7] != part.Features[0][7] {
			t.Error("the range changed a feature")
		}
	}
	w := get(t, s, "/api/v1/features/SPX/1d?start=soon&end=1999")
	if e := decodeError(t, w); w.Code != http.StatusBadRequest || len(e.Problems) != 2 {
		t.Errorf("%d %+v", w.Code, e)
	}
	w = get(t, s, "/api/v1/features/SPX/1d?start=2030-01-01")
	if e := decodeError(t, w); w.Code != http.StatusBadRequest || !strings.Contains(e.Message, "2001-01-02 to 2020-04-17") {
		t.Errorf("%d %+v", w.Code, e)
	}
}

func TestUnknownNamesSayWhatExists(t *testing.T) {
	t.Parallel()
	s, _ := newServer(t, nil)
	w := get(t, s, "/api/v1/features/DOGE/1d")
	if e := decodeError(t, w); w.Code != http.StatusNotFound || e.Error != "unknown_symbol" || !strings.Contains(e.Message, "SPX (1d, 1w)") {
		t.Errorf("%d %+v", w.Code, e)
	}
	w = get(t, s, "/api/v1/features/SPX/7x")
	if e := decodeError(t, w); w.Code != http.StatusNotFound || e.Error != "unknown_timeframe" || !strings.Contains(e.Message, "1d, 1w") {
		t.Errorf("%d %+v", w.Code, e)
	}
}

func TestABadFileRefusesItsSymbolOnly(t *testing.T) {
	t.Parallel()
	good := walk(300)
	s, _ := newServer(t, map[string]string{
		"GOOD_1d.csv": good, "CUT_1d.csv": good[:len(good)-12], "FEW_1d.csv": walk(10),
		"notes.txt": "x", "what.csv": good, "SPX_1d.csv": "date\n",
	})
	w := get(t, s, "/api/v1/features/CUT/1d")
	e := decodeError(t, w)
	if w.Code != http.StatusUnprocessableEntity || len(e.Problems) != 1 || !strings.Contains(e.Problems[0], "line 301") {
		t.Errorf("%d %+v", w.Code, e)
	}
	w = get(t, s, "/api/v1/features/FEW/1d")
	if e := decodeError(t, w); w.Code != http.StatusUnprocessableEntity || !strings.Contains(e.Problems[0], "at least 253") {
		t.Errorf("%d %+v", w.Code, e)
	}
	if w := get(t, s, "/api/v1/features/SPX/1w"); w.Code != http.StatusUnprocessableEntity {
		t.Errorf("weeks of a refused daily file: %d", w.Code)
	}
	if w := get(t, s, "/api/v1/features/GOOD/1d"); w.Code != http.StatusOK {
		t.Errorf("good file: %d %s", w.Code, w.Body)
	}
	list := get(t, s, "/api/v1/symbols").Body.String()
	for _, want := range []string{`"GOOD"`, `"refused":true`, `what.csv`} {
		if !strings.Contains(list, want) {
			t.Errorf("%s not in %s", want, list)
		}
	}
}

func TestADroppedFileIsServedWithoutRestart(t *testing.T) {
	t.Parallel()
	s, dir := newServer(t, nil)
	if w := get(t, s, "/api/v1/features/NEW/1d"); w.Code != http.StatusNotFound {
		t.Fatalf("%d before the file", w.Code)
	}
	write(t, dir, "NEW_1d.csv", walk(300))
	s.looked = time.Time{}
	if w := get(t, s, "/api/v1/features/NEW/1d"); w.Code != http.StatusOK {
		t.Fatalf("%d after the file: %s", w.Code, w.Body)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	s.looked = time.Time{}
	if w := get(t, s, "/api/v1/features/NEW/1d"); w.Code != http.StatusOK {
		t.Fatalf("%d after the directory went away", w.Code)
	}
}

func TestAMissingDirectoryIsAnError(t *testing.T) {
	t.Parallel()
	if _, err := NewServer(filepath.Join(t.TempDir(), "none"), zap.NewNop()); err == nil {
		t.Fatal("a missing data directory was accepted")
	}
}
