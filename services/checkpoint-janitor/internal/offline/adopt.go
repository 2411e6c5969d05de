package offline

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/inventory"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Adopt runs `checkpoint-janitor adopt DIR`: it takes stock of a directory of
// old checkpoint files and writes it as an inventory, for `plan` to decide about.
// It changes nothing in the directory.
func Adopt(args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("checkpoint-janitor adopt", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	to := flags.String("o", "", "inventory file to write; empty is standard output")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("%w\n%s", err, usage(flags))
	}
	if flags.NArg() != 1 {
		return errors.New("give one directory, after the options")
	}
	// Root keeps links that lead elsewhere from bringing other files in.
	root, err := os.OpenRoot(flags.Arg(0))
	if err != nil {
		return err
	}
	found, err := takeStock(root.FS(), log)
	if err = errors.Join(err, root.Close()); err != nil {
		return err
	}
	if *to == "" {
		return inventory.WriteJSONL(out, found)
	}
	f, err := os.OpenFile(*to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(inventory.WriteJSONL(f, found), f.Close()); err != nil {
		return err
	}
	_, err = fmt.Fprintf(log, "%d checkpoints with %s written to %s; decide with: checkpoint-janitor plan --inventory %s --now %s\n",
		len(found.Checkpoints), retention.Bytes(found.Usage.UsedBytes), *to, *to, time.Now().UTC().Format(time.RFC3339))
	return err
}

// extensions of files that are checkpoints; everything else is left alone.
var extensions = map[string]bool{".pth": true, ".pt": true, ".ckpt": true, ".safetensors": true}

func takeStock(tree fs.FS, log io.Writer) (retention.Inventory, error) {
	var found retention.Inventory
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			// One unreadable directory must not hide the rest.
			_, werr := fmt.Fprintf(log, "%s cannot be read: %v\n", name, err)
			return werr
		}
		if !d.Type().IsRegular() || !extensions[strings.ToLower(path.Ext(name))] {
			return nil
		}
		c, err := adoptFile(tree, name)
		if err != nil {
			_, werr := fmt.Fprintf(log, "%s cannot be read: %v\n", name, err)
			return werr
		}
		found.Checkpoints = append(found.Checkpoints, c)
		found.Usage.UsedBytes += c.Bytes()
		return nil
	})
	return found, err
}

// adoptFile describes one file. Its directory is its experiment and its run,
// its path its id: nothing better is known of it.
func adoptFile(tree fs.FS, name string) (_ retention.Checkpoint, err error) {
	f, err := tree.Open(name)
	if err != nil {
		return retention.Checkpoint{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	sum := sha256.New()
	size, err := io.Copy(sum, bufio.NewReaderSize(f, 1<<20))
	if err != nil {
		return retention.Checkpoint{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return retention.Checkpoint{}, err
	}
	c := retention.Checkpoint{
		ID: name, Experiment: path.Dir(name), RunID: path.Dir(name), State: retention.StateLive, CreateTime: info.ModTime().UTC(),
		Step: stepIn(name), Resumable: true, Files: []retention.File{{Digest: hex.EncodeToString(sum.Sum(nil)), Bytes: size}},
	}
	c.Sharpe = sharpeBeside(tree, name)
	return c, nil
}

// Names such as bull_epoch12_sharpe1.42.pth carry what nobody wrote elsewhere.
var (
	stepName   = regexp.MustCompile(`(?i)(?:step|epoch|ep|iter)[-_=]?([0-9]{1,15})`)
	sharpeName = regexp.MustCompile(`(?i)sharpe[-_=]?(-?[0-9]+(?:\.[0-9]+)?|nan|-?inf)`)
)

func stepIn(name string) int64 {
	m := stepName.FindStringSubmatch(path.Base(name))
	if m == nil {
		return 0
	}
	step, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil {
		return 0
	}
	return step
}

// maxSidecar bounds a metrics file.
const maxSidecar = 1 << 20

// sharpeBeside reads the figure from a JSON file beside the checkpoint, else
// from the file's own name. The .pth itself is never opened as one: unpickling
// runs code.
func sharpeBeside(tree fs.FS, name string) retention.Metric {
	stem := strings.TrimSuffix(name, path.Ext(name))
	for _, sidecar := range []string{stem + ".json", name + ".json", stem + ".metrics.json"} {
		f, err := tree.Open(sidecar)
		if err != nil {
			continue
		}
		raw, rerr := io.ReadAll(io.LimitReader(f, maxSidecar))
		if cerr := f.Close(); rerr != nil || cerr != nil {
			continue
		}
		var fields map[string]any
		if json.Unmarshal(raw, &fields) != nil {
			continue
		}
		for _, key := range []string{"validation/sharpe", "val_sharpe", "validation_sharpe", "sharpe", "sharpe_ratio"} {
			if m, ok := number(fields[key]); ok {
				return m
			}
		}
	}
	if m := sharpeName.FindStringSubmatch(strings.TrimSuffix(path.Base(name), path.Ext(name))); m != nil {
		if v, ok := number(m[1]); ok {
			return v
		}
	}
	return retention.Metric{}
}

func number(v any) (retention.Metric, bool) {
	switch v := v.(type) {
	case float64:
		return retention.Measured(v), true
	case string: // NaN and the infinities are texts in JSON
		f, err := strconv.ParseFloat(v, 64)
		return retention.Measured(f), err == nil
	default:
		return retention.Metric{}, false
	}
}
