package archive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"

	"github.com/ultrathink-pilot/trainyard/libs/checkpointcodec"
)

// fetch copies an object to a file; its digest is checked at the end.
func fetch(ctx context.Context, from Store, key, digest, path string) error {
	body, err := from.Get(ctx, key, digest)
	if err != nil {
		return err
	}
	return errors.Join(write(path, func(f *os.File) error {
		_, err := io.Copy(f, body)
		return err
	}), body.Close())
}

func write(path string, fill func(*os.File) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(fill(f), f.Close())
}

// encode packs a file and returns the digest of what it wrote.
func encode(raw, base, packed string) (stats checkpointcodec.Stats, digest string, err error) {
	src, err := os.Open(raw)
	if err != nil {
		return stats, "", err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	sum := sha256.New()
	err = withBase(base, func(b io.ReadSeeker) error {
		return write(packed, func(f *os.File) error {
			stats, err = checkpointcodec.Encode(io.MultiWriter(f, sum), src, b)
			return err
		})
	})
	return stats, hex.EncodeToString(sum.Sum(nil)), err
}

// decode unpacks a copy to a file and returns the digest of its content.
func decode(ctx context.Context, from Store, c Copy, base, path string) (digest string, err error) {
	body, err := from.Get(ctx, c.Key, c.ObjectSHA256)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	sum := sha256.New()
	err = withBase(base, func(b io.ReadSeeker) error {
		return write(path, func(f *os.File) error {
			_, err := checkpointcodec.Decode(io.MultiWriter(f, sum), body, b)
			return err
		})
	})
	return hex.EncodeToString(sum.Sum(nil)), err
}

func withBase(path string, use func(io.ReadSeeker) error) error {
	if path == "" {
		return use(nil)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(use(f), f.Close())
}
