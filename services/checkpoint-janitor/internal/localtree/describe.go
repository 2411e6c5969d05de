package localtree

import (
	"encoding/json"
	"errors"
	"io"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/pth"
)

// extensions of files that are checkpoints; everything else is left alone.
var extensions = map[string]bool{".pth": true, ".pt": true, ".ckpt": true, ".safetensors": true}

func isCheckpoint(name string) bool { return extensions[strings.ToLower(path.Ext(name))] }

// Names such as bull_epoch12_sharpe1.42.pth carry what nobody wrote elsewhere. One that
// says that it is the best, or in use, is one that somebody has chosen.
var (
	stepName   = regexp.MustCompile(`(?i)(?:step|epoch|ep|iter)[-_=]?([0-9]{1,15})`)
	sharpeName = regexp.MustCompile(`(?i)sharpe[-_=]?(-?[0-9]+(?:\.[0-9]+)?|nan|-?inf)`)
	chosen     = regexp.MustCompile(`(?i)(?:^|[-_.])(?:best|prod|production|live|deployed)(?:[-_.]|$)`)
)

// sharpeKeys are the names under which people have written the validation Sharpe ratio.
var sharpeKeys = []string{"validation/sharpe", "val_sharpe", "validation_sharpe", "val/sharpe", "best_sharpe", "sharpe", "sharpe_ratio"}

const (
	// maxSidecar bounds a metrics file.
	maxSidecar = 1 << 20
	// maxInside bounds a checkpoint that is read for its metrics; larger ones keep them beside.
	maxInside = 256 << 20
)

// describe hashes a file and looks for its figures: in a JSON file beside it, inside it, in
// its own name, in this order.
func (t *Tree) describe(name string, i Info, sidecars map[string]bool) (entry, error) {
	digest, n, err := t.digest(name)
	if err != nil {
		return entry{}, err
	}
	e := entry{SHA256: digest, Bytes: n, ModTime: i.ModTime}
	if m := stepName.FindStringSubmatch(path.Base(name)); m != nil {
		if step, err := strconv.ParseInt(m[1], 10, 64); err == nil {
			e.Step = step
		}
	}
	e.Sharpe = t.beside(name, sidecars)
	if e.Sharpe == "" && n <= maxInside && strings.ToLower(path.Ext(name)) != ".safetensors" {
		if e.Sharpe, err = t.inside(name, &e); err != nil {
			return entry{}, err
		}
	}
	if m := sharpeName.FindStringSubmatch(strings.TrimSuffix(path.Base(name), path.Ext(name))); e.Sharpe == "" && m != nil {
		e.Sharpe = m[1]
	}
	return e, nil
}

func (t *Tree) beside(name string, sidecars map[string]bool) string {
	stem := strings.TrimSuffix(name, path.Ext(name))
	for _, sidecar := range []string{stem + ".json", name + ".json", stem + ".metrics.json"} {
		if !sidecars[sidecar] {
			continue
		}
		f, err := t.Disk.Open(sidecar)
		if err != nil {
			continue
		}
		raw, err := io.ReadAll(io.LimitReader(f, maxSidecar))
		if errors.Join(err, f.Close()) != nil {
			continue
		}
		var fields map[string]any
		if json.Unmarshal(raw, &fields) != nil {
			continue
		}
		if nested, ok := fields["metrics"].(map[string]any); ok {
			if found := figureIn(nested); found != "" {
				return found
			}
		}
		if found := figureIn(fields); found != "" {
			return found
		}
	}
	return ""
}

func figureIn(fields map[string]any) string {
	for _, key := range sharpeKeys {
		switch v := fields[key].(type) {
		case float64:
			return strconv.FormatFloat(v, 'g', -1, 64)
		case string: // NaN and the infinities are texts in JSON
			if _, err := strconv.ParseFloat(v, 64); err == nil {
				return v
			}
		}
	}
	return ""
}

// inside reads a torch file's own values with the restricted reader: no code of it runs, and
// one that is refused is simply silent.
func (t *Tree) inside(name string, e *entry) (sharpe string, err error) {
	f, err := t.Disk.Open(name)
	if err != nil {
		return "", err
	}
	raw, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", err
	}
	file, rerr := pth.Read(raw, pth.Options{Lenient: true, Share: true})
	if rerr != nil {
		return "", nil //nolint:nilerr // a file that is no torch file still has a size and a name
	}
	best := len(sharpeKeys)
	for _, s := range file.Scalars {
		last := s.Name[strings.LastIndexByte(s.Name, '.')+1:]
		if v, ok := s.Value.(int64); ok && e.Step == 0 && (last == "epoch" || last == "step" || last == "global_step") && v > 0 {
			e.Step = v
		}
		for rank, key := range sharpeKeys[:best] {
			if last != key {
				continue
			}
			switch v := s.Value.(type) {
			case float64:
				sharpe, best = strconv.FormatFloat(v, 'g', -1, 64), rank
			case int64:
				sharpe, best = strconv.FormatInt(v, 10), rank
			}
			break
		}
	}
	return sharpe, nil
}
