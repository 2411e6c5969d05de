// Package tiers is the store with both its tiers: the key says which one an object is of.
package tiers

import (
	"context"
	"io"
	"strings"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
)

// coldPrefix begins every key of the cold tier.
const coldPrefix = "cold/"

// Store reads and deletes in either tier.
type Store struct{ Hot, Cold *objectstore.Store }

func (s Store) of(key string) *objectstore.Store {
	if strings.HasPrefix(key, coldPrefix) {
		return s.Cold
	}
	return s.Hot
}

// Get reads an object; see [objectstore.Store.Get].
func (s Store) Get(ctx context.Context, key, digest string) (io.ReadCloser, error) {
	return s.of(key).Get(ctx, key, digest)
}

// Delete removes an object; removing what is not there is no error.
func (s Store) Delete(ctx context.Context, key string) error { return s.of(key).Delete(ctx, key) }
