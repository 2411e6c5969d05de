package offline

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/retention"
)

// Pack runs `checkpoint-janitor pack`: it packs one file without loss, unpacks
// it again to compare, and only then gives it its name.
func Pack(args []string, out io.Writer) error {
	from, base, to, err := packArguments("pack", args, out)
	if err != nil {
		return err
	}
	sum := sha256.New()
	var stats checkpointcodec.Stats
	err = through(from, base, to, func(src io.Reader, base io.ReadSeeker, dst *os.File) (err error) {
		if stats, err = checkpointcodec.Encode(dst, io.TeeReader(src, sum), base); err != nil {
			return err
		}
		return readBack(dst, base, sum)
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %s packed into %s, %.1f %% saved, read back and equal\n", to, retention.Bytes(stats.Raw), retention.Bytes(stats.Packed), 100*stats.Saved())
	return err
}

// readBack unpacks what was written and compares it with what was read.
func readBack(dst *os.File, base io.ReadSeeker, want hash.Hash) error {
	if _, err := dst.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if base != nil {
		if _, err := base.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	got := sha256.New()
	if _, err := checkpointcodec.Decode(got, dst, base); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("read back: other bytes came out than went in")
	}
	return nil
}

// Unpack runs `checkpoint-janitor unpack`.
func Unpack(args []string, out io.Writer) error {
	from, base, to, err := packArguments("unpack", args, out)
	if err != nil {
		return err
	}
	var stats checkpointcodec.Stats
	err = through(from, base, to, func(src io.Reader, base io.ReadSeeker, dst *os.File) (err error) {
		stats, err = checkpointcodec.Decode(dst, src, base)
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s: %s, digest checked\n", to, retention.Bytes(stats.Raw))
	return err
}

func packArguments(command string, args []string, out io.Writer) (from, base, to string, err error) {
	flags := flag.NewFlagSet("checkpoint-janitor "+command, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&base, "base", "", "earlier checkpoint file that the difference is taken to")
	flags.StringVar(&to, "o", "", "file to write; it must not exist")
	if err := flags.Parse(args); err != nil {
		return "", "", "", wrong(flags, err, out, "")
	}
	var problems []error
	if flags.NArg() != 1 {
		problems = append(problems, errors.New("give one file, after the options"))
	}
	if to == "" {
		problems = append(problems, errors.New("-o is missing; give the file to write"))
	} else if _, err := os.Lstat(to); err == nil {
		problems = append(problems, fmt.Errorf("%s exists already; nothing is overwritten", to))
	}
	return flags.Arg(0), base, to, errors.Join(problems...)
}

// through opens the files, lets fn write a temporary one, and gives it its name
// once it is complete and on the disk.
func through(from, base, to string, fn func(src io.Reader, base io.ReadSeeker, dst *os.File) error) (err error) {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	var baseReader io.ReadSeeker
	if base != "" {
		f, err := os.Open(base)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		baseReader = f
	}
	dst, err := os.CreateTemp(filepath.Dir(to), ".packing-*")
	if err != nil {
		return err
	}
	if err := errors.Join(fn(src, baseReader, dst), dst.Sync(), dst.Close()); err != nil {
		return errors.Join(err, os.Remove(dst.Name()))
	}
	// A link, not a rename: a file that appeared meanwhile is not overwritten.
	if err := os.Link(dst.Name(), to); err != nil {
		return errors.Join(err, os.Remove(dst.Name()))
	}
	return os.Remove(dst.Name())
}
