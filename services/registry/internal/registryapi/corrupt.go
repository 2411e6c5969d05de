package registryapi

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// ReportCorruptCheckpoint takes the reader's word for its checkpoint, so that the next resolve gives another
// one, and reads for itself what other checkpoints share.
func (s *ingestServer) ReportCorruptCheckpoint(ctx context.Context, r *registryv1.ReportCorruptCheckpointRequest) (*registryv1.ReportCorruptCheckpointResponse, error) {
	var bad []string
	for _, sum := range r.GetContentsSha256() {
		bad = append(bad, hex.EncodeToString(sum))
	}
	var (
		c      catalog.Checkpoint
		shared []catalog.File
	)
	err := s.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		c, shared, err = t.MarkCorrupt(ctx, r.GetCheckpointId(), r.GetFence(), r.GetReason(), bad)
		return err
	})
	if err != nil {
		return nil, s.fencedCount("ReportCorruptCheckpoint", err)
	}
	for _, f := range shared {
		if err := s.suspect(ctx, f); err != nil {
			return nil, wire(err)
		}
	}
	return &registryv1.ReportCorruptCheckpointResponse{Checkpoint: checkpoint(c)}, nil
}

// suspect reads an object to its end and takes it out of use when it is not what was committed. What has a
// packed copy is restored from it; else every checkpoint that holds it is corrupt.
func (a *api) suspect(ctx context.Context, f catalog.File) error {
	body, err := a.Objects.Get(ctx, f.ObjectKey, f.SHA256)
	if err == nil {
		_, err = io.Copy(io.Discard, body)
		err = errors.Join(err, body.Close())
	}
	if !errors.Is(err, objectstore.ErrDigestMismatch) && !errors.Is(err, objectstore.ErrNotFound) {
		return err
	}
	found, err := a.quarantine(ctx, f.ObjectKey, "a reader and the registry found other bytes")
	if err != nil {
		return err
	}
	a.Log.Error("an object that checkpoints share is bad", zap.String("key", f.ObjectKey), zap.Strings("corrupt_checkpoints", found.Corrupt),
		zap.String("outcome", found.Outcome))
	return nil
}

// quarantine takes a bad object out of use first, and repairs second: a repair takes minutes and may be
// asked for again.
func (a *api) quarantine(ctx context.Context, key, detail string) (postgres.BadObject, error) {
	var found postgres.BadObject
	err := a.Store.Do(ctx, time.Now(), func(t *postgres.Tx) error {
		var err error
		found, err = t.QuarantineObject(ctx, key, detail)
		return err
	})
	if err == nil && found.Repairable {
		err = a.restores.content(ctx, key, found.Content)
	}
	return found, err
}
