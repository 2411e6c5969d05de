// Package dataservice is the development Data Service: features of real market
// history over HTTP, JSON or Arrow by content negotiation.
//
//	GET /api/v1/features/{symbol}/{timeframe}?start=&end=
//	GET /api/v1/symbols
//	GET /healthz
//
// It serves the built-in S&P 500 history as SPX and every SYMBOL_TIMEFRAME.csv
// of its data directory; weekly bars are made from daily ones. A file with a
// problem refuses its own symbol and no other.
package dataservice

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/bars"
	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice/feature"
)

//go:embed data/*.csv
var builtin embed.FS

// maxFileBytes bounds one CSV: about six million daily bars.
const maxFileBytes = 512 << 20

// dataset is one symbol at one timeframe: a table, or the problems of its file.
type dataset struct {
	symbol, timeframe string
	// source says where the bars came from, for people.
	source   string
	table    *feature.Table
	digest   string
	problems []string
}

// refused says whether the file behind the dataset could not be used.
func (d *dataset) refused() bool { return len(d.problems) > 0 }

type key struct{ symbol, timeframe string }

// catalog is everything that is served, fixed at one reading of the directory.
type catalog struct {
	sets map[key]*dataset
	// strays are files of the data directory that name no dataset.
	strays []string
}

// sorted returns the datasets by symbol, then timeframe.
func (c *catalog) sorted() []*dataset {
	out := make([]*dataset, 0, len(c.sets))
	for _, d := range c.sets {
		out = append(out, d)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].symbol != out[j].symbol {
			return out[i].symbol < out[j].symbol
		}
		return out[i].timeframe < out[j].timeframe
	})
	return out
}

// loadCatalog reads the built-in history and the directory, which may be empty
// ("" or without files). A file of the directory wins over a built-in one.
func loadCatalog(dir string) (*catalog, error) {
	c := &catalog{sets: map[key]*dataset{}}
	if err := c.loadFS(builtin, "data", "built in: "); err != nil {
		return nil, err
	}
	if dir != "" {
		root, err := os.OpenRoot(dir)
		if err != nil {
			return nil, fmt.Errorf("data directory: %w", err)
		}
		err = c.loadFS(root.FS(), ".", dir+string(filepath.Separator))
		if err := errors.Join(err, root.Close()); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *catalog) loadFS(fsys fs.FS, dir, prefix string) error {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return fmt.Errorf("data directory: %w", err)
	}
	var given []key
	for _, entry := range entries {
		name := entry.Name()
		if entry.IsDir() || !strings.HasSuffix(strings.ToLower(name), ".csv") {
			continue
		}
		stem := name[:len(name)-len(".csv")]
		cut := strings.LastIndexByte(stem, '_')
		if cut < 0 || !bars.ValidSymbol(stem[:cut]) || !bars.ValidTimeframe(stem[cut+1:]) {
			c.strays = append(c.strays, prefix+name)
			continue
		}
		k := key{stem[:cut], stem[cut+1:]}
		history, problems := readBars(fsys, filepath.ToSlash(filepath.Join(dir, name)))
		c.put(k, prefix+name, history, problems)
		given = append(given, k)
		if k.timeframe == "1d" && problems == nil {
			c.derive(k.symbol, prefix+name, history)
		} else if k.timeframe == "1d" {
			c.put(key{k.symbol, "1w"}, prefix+name, nil, problems)
		}
	}
	// A weekly file of the same directory wins over the derived weeks, whatever
	// the order in which the directory lists the two.
	for _, k := range given {
		if k.timeframe == "1w" {
			history, problems := readBars(fsys, filepath.ToSlash(filepath.Join(dir, k.symbol+"_1w.csv")))
			c.put(k, prefix+k.symbol+"_1w.csv", history, problems)
		}
	}
	return nil
}

// derive adds the weekly table of a daily history, if that is long enough.
func (c *catalog) derive(symbol, source string, daily []bars.Bar) {
	weekly := bars.Weekly(daily)
	if len(weekly) > feature.Warmup {
		c.put(key{symbol, "1w"}, source+", resampled to weeks", weekly, nil)
	} else {
		delete(c.sets, key{symbol, "1w"})
	}
}

func (c *catalog) put(k key, source string, history []bars.Bar, problems []string) {
	d := &dataset{symbol: k.symbol, timeframe: k.timeframe, source: source, problems: problems}
	if !d.refused() {
		table, err := feature.Compute(history)
		if err != nil {
			d.problems = []string{err.Error()}
		} else {
			d.table, d.digest = table, digest(k.symbol, k.timeframe, table)
		}
	}
	c.sets[k] = d
}

func readBars(fsys fs.FS, name string) ([]bars.Bar, []string) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return nil, []string{"cannot be read: " + reason(err)}
	}
	if info.Size() > maxFileBytes {
		return nil, []string{fmt.Sprintf("has %d bytes, the largest allowed is %d", info.Size(), maxFileBytes)}
	}
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return nil, []string{"cannot be read: " + reason(err)}
	}
	history, problems := bars.Parse(data)
	if problems == nil {
		return history, nil
	}
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	return nil, lines
}

// reason is an error without its path, which the caller names already.
func reason(err error) string {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err.Error()
	}
	return err.Error()
}

// regimeCodes number the regimes on the wire; the client checks the list.
var regimeCodes = []string{"unknown", feature.Bull, feature.Bear, feature.Sideways}

func regimeCode(name string) uint8 {
	for i, n := range regimeCodes {
		if n == name {
			return uint8(i)
		}
	}
	return 0
}

// digest is the identity of a table's content, the same for JSON and Arrow: the
// SHA-256 of these bytes in order, all numbers little-endian.
//
//	"trainyard-table\n" schema version "\n" symbol "\n" timeframe "\n" feature names joined by "," "\n"
//	number of bars (uint64), then all dates (int64 seconds), all closes
//	(float64), all regime codes (uint8), all features (float32, row-major)
func digest(symbol, timeframe string, t *feature.Table) string {
	h := sha256.New()
	buf := make([]byte, 0, 1<<16)
	flush := func(limit int) {
		if len(buf) >= limit {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	buf = append(buf, "trainyard-table\n"+feature.SchemaVersion+"\n"+symbol+"\n"+timeframe+"\n"+strings.Join(feature.Names(), ",")+"\n"...)
	buf = binary.LittleEndian.AppendUint64(buf, uint64(t.Bars()))
	const full = 1<<16 - 64
	for _, v := range t.Dates {
		buf = binary.LittleEndian.AppendUint64(buf, uint64(v))
		flush(full)
	}
	for _, v := range t.Close {
		buf = binary.LittleEndian.AppendUint64(buf, math.Float64bits(v))
		flush(full)
	}
	for _, v := range t.Regimes {
		buf = append(buf, regimeCode(v))
		flush(full)
	}
	for _, v := range t.Features {
		buf = binary.LittleEndian.AppendUint32(buf, math.Float32bits(v))
		flush(full)
	}
	flush(1)
	return hex.EncodeToString(h.Sum(nil))
}
