package dataservice

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/bars"
	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/feature"
)

// rescanEvery bounds how often requests look for changed files.
const rescanEvery = time.Second

// Server answers the HTTP API. Make it with NewServer.
type Server struct {
	dir string
	log *zap.Logger
	mux *http.ServeMux

	mu        sync.Mutex
	current   *catalog
	signature string
	looked    time.Time
}

// NewServer loads the built-in history and the data directory ("" for none).
// A bad file is logged with every problem and refuses its symbol only.
func NewServer(dir string, log *zap.Logger) (*Server, error) {
	s := &Server{dir: dir, log: log, mux: http.NewServeMux()}
	signature, err := directorySignature(dir)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	if s.current, err = loadCatalog(dir); err != nil {
		return nil, err
	}
	s.signature, s.looked = signature, time.Now()
	s.report(s.current)
	s.mux.HandleFunc("GET /api/v1/features/{symbol}/{timeframe}", s.features)
	s.mux.HandleFunc("GET /api/v1/symbols", s.symbols)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	return s, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

func (s *Server) report(c *catalog) {
	for _, d := range c.sorted() {
		if d.refused() {
			s.log.Warn("history refused", zap.String("source", d.source), zap.Strings("problems", d.problems))
			continue
		}
		s.log.Info("history served", zap.String("symbol", d.symbol), zap.String("timeframe", d.timeframe),
			zap.Int("bars", d.table.Bars()), zap.String("source", d.source), zap.String("digest", d.digest))
	}
	for _, name := range c.strays {
		s.log.Warn("file ignored: its name is not SYMBOL_TIMEFRAME.csv, such as AAPL_1d.csv", zap.String("file", name))
	}
}

// catalog returns what is served now. A directory that changed is read again,
// so that a dropped file needs no restart; one that cannot be read keeps what
// was served before.
func (s *Server) catalog() *catalog {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dir == "" || time.Since(s.looked) < rescanEvery {
		return s.current
	}
	s.looked = time.Now()
	signature, err := directorySignature(s.dir)
	if err == nil && signature == s.signature {
		return s.current
	}
	var next *catalog
	if err == nil {
		next, err = loadCatalog(s.dir)
	}
	if err != nil {
		s.log.Warn("data directory cannot be read; serving what was read before", zap.Error(err))
		return s.current
	}
	s.current, s.signature = next, signature
	s.report(next)
	return next
}

// directorySignature changes whenever a file of the directory does.
func directorySignature(dir string) (string, error) {
	if dir == "" {
		return "", nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue // Removed between the listing and the look: the next look sees it.
		}
		fmt.Fprintf(&b, "%s %d %d\n", entry.Name(), info.Size(), info.ModTime().UnixNano())
	}
	return b.String(), nil
}

// apiError is the body of every answer that is not 2xx or 304.
type apiError struct {
	// Error is one of unknown_symbol, unknown_timeframe, refused, invalid_range, internal.
	Error   string `json:"error"`
	Message string `json:"message"`
	// Problems has every problem of a refused history or of a bad query.
	Problems []string `json:"problems,omitempty"`
	// Available maps each symbol that is served to its timeframes.
	Available map[string][]string `json:"available,omitempty"`
}

func available(c *catalog) map[string][]string {
	out := map[string][]string{}
	for _, d := range c.sorted() {
		if !d.refused() {
			out[d.symbol] = append(out[d.symbol], d.timeframe)
		}
	}
	return out
}

func (s *Server) features(w http.ResponseWriter, r *http.Request) {
	c := s.catalog()
	symbol, timeframe := r.PathValue("symbol"), r.PathValue("timeframe")
	d := c.sets[key{symbol, timeframe}]
	switch {
	case d == nil:
		s.unknown(w, c, symbol, timeframe)
		return
	case d.refused():
		writeJSON(w, http.StatusUnprocessableEntity, apiError{
			Error:    "refused",
			Message:  fmt.Sprintf("%s cannot be used: correct the file and ask again", d.source),
			Problems: d.problems, Available: available(c),
		})
		return
	}
	lo, hi, problems := window(d.table, r.URL.Query().Get("start"), r.URL.Query().Get("end"))
	if problems != nil {
		writeJSON(w, http.StatusBadRequest, apiError{
			Error: "invalid_range", Message: strings.Join(problems, "; "), Problems: problems,
		})
		return
	}
	table, sum := d.table, d.digest
	if lo > 0 || hi < table.Bars() {
		table = table.Slice(lo, hi)
		sum = digest(symbol, timeframe, table)
	}
	form, encode, media := "json", encodeJSON, mediaJSON
	if wantsArrow(r.Header.Values("Accept")) {
		form, encode, media = "arrow", encodeArrow, mediaArrow
	}
	tag := `"` + sum + "." + form + `"`
	header := w.Header()
	header.Set("ETag", tag)
	header.Set("Vary", "Accept")
	header.Set("Cache-Control", "no-cache")
	if matches(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body, err := encode(symbol, timeframe, sum, table)
	if err != nil {
		s.log.Error("features cannot be encoded", zap.Error(err))
		writeJSON(w, http.StatusInternalServerError, apiError{Error: "internal", Message: "the table cannot be encoded"})
		return
	}
	bodySum := sha256.Sum256(body)
	header.Set("Content-Type", media)
	header.Set("Content-Length", strconv.Itoa(len(body)))
	// RFC 9530: the reader verifies the bytes before it opens them.
	header.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(bodySum[:])+":")
	header.Set("X-Feature-Schema", feature.SchemaVersion)
	header.Set("X-Feature-Digest", sum)
	if _, err := w.Write(body); err != nil {
		s.log.Debug("reader went away", zap.Error(err))
	}
}

func (s *Server) unknown(w http.ResponseWriter, c *catalog, symbol, timeframe string) {
	served := available(c)
	answer := apiError{Error: "unknown_symbol", Available: served}
	if frames := served[symbol]; len(frames) > 0 {
		answer.Error = "unknown_timeframe"
		answer.Message = fmt.Sprintf("%q has no timeframe %q; it has %s", symbol, timeframe, strings.Join(frames, ", "))
	} else {
		answer.Message = fmt.Sprintf("unknown symbol %q; there is %s", symbol, describe(served))
	}
	if !bars.ValidSymbol(symbol) || !bars.ValidTimeframe(timeframe) {
		answer.Message += " (a timeframe is a number and s, m, h, d, w or M)"
	}
	writeJSON(w, http.StatusNotFound, answer)
}

// describe lists symbols with their timeframes: "SPX (1d, 1w)".
func describe(served map[string][]string) string {
	names := make([]string, 0, len(served))
	for name := range served {
		names = append(names, name)
	}
	sort.Strings(names)
	for i, name := range names {
		names[i] = fmt.Sprintf("%s (%s)", name, strings.Join(served[name], ", "))
	}
	return strings.Join(names, ", ")
}

// window returns the rows between start and end, both inclusive, each a date or
// RFC 3339; empty means unbounded. An end without a time means that whole day.
func window(t *feature.Table, start, end string) (lo, hi int, problems []string) {
	hi = t.Bars()
	bound := func(name, text string, wholeDay bool) (int64, bool) {
		at, err := time.Parse(time.DateOnly, text)
		if err == nil && wholeDay {
			return at.Unix() + 24*3600 - 1, true
		}
		if err != nil {
			at, err = time.Parse(time.RFC3339, text)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s: %q is neither 2006-01-02 nor RFC 3339", name, text))
		}
		return at.Unix(), err == nil
	}
	if start != "" {
		if at, ok := bound("start", start, false); ok {
			lo = sort.Search(len(t.Dates), func(i int) bool { return t.Dates[i] >= at })
		}
	}
	if end != "" {
		if at, ok := bound("end", end, true); ok {
			hi = sort.Search(len(t.Dates), func(i int) bool { return t.Dates[i] > at })
		}
	}
	if problems == nil && lo >= hi {
		day := func(i int) string { return time.Unix(t.Dates[i], 0).UTC().Format(time.DateOnly) }
		problems = append(problems, fmt.Sprintf("no bars between start %q and end %q: the table has %s to %s",
			start, end, day(0), day(t.Bars()-1)))
	}
	return lo, hi, problems
}

// wantsArrow says whether the reader accepts Arrow with more weight than zero
// and does not put JSON before it.
func wantsArrow(accept []string) bool {
	arrow, other := 0.0, 0.0
	for _, part := range strings.Split(strings.Join(accept, ","), ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		weight := 1.0
		if q, err := strconv.ParseFloat(params["q"], 64); err == nil {
			weight = q
		}
		switch media {
		case mediaArrow:
			arrow = weight
		case mediaJSON:
			other = weight
		}
	}
	return arrow > 0 && arrow >= other
}

// matches implements If-None-Match for one strong tag.
func matches(header, tag string) bool {
	for _, candidate := range strings.Split(header, ",") {
		candidate = strings.TrimPrefix(strings.TrimSpace(candidate), "W/")
		if candidate == tag || candidate == "*" {
			return true
		}
	}
	return false
}

func (s *Server) symbols(w http.ResponseWriter, _ *http.Request) {
	type entry struct {
		Symbol    string   `json:"symbol"`
		Timeframe string   `json:"timeframe"`
		Source    string   `json:"source"`
		Refused   bool     `json:"refused"`
		Problems  []string `json:"problems,omitempty"`
		Bars      int      `json:"bars"`
		Start     string   `json:"start,omitempty"`
		End       string   `json:"end,omitempty"`
		Digest    string   `json:"digest,omitempty"`
	}
	answer := struct {
		SchemaVersion string   `json:"schema_version"`
		FeatureNames  []string `json:"feature_names"`
		Symbols       []entry  `json:"symbols"`
		Ignored       []string `json:"ignored_files,omitempty"`
	}{SchemaVersion: feature.SchemaVersion, FeatureNames: feature.Names()}
	c := s.catalog()
	answer.Ignored = c.strays
	for _, d := range c.sorted() {
		e := entry{Symbol: d.symbol, Timeframe: d.timeframe, Source: d.source, Refused: d.refused(), Problems: d.problems, Digest: d.digest}
		if t := d.table; t != nil {
			e.Bars = t.Bars()
			e.Start = time.Unix(t.Dates[0], 0).UTC().Format(time.RFC3339)
			e.End = time.Unix(t.Dates[t.Bars()-1], 0).UTC().Format(time.RFC3339)
		}
		answer.Symbols = append(answer.Symbols, e)
	}
	writeJSON(w, http.StatusOK, answer)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", mediaJSON)
	w.WriteHeader(status)
	// A reader that went away needs no answer.
	_, _ = w.Write(append(body, '\n'))
}
