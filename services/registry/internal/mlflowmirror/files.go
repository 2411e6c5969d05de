package mlflowmirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/contents"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/outbox"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// elsewhere refuses an artifact root that only keys could reach.
func elsewhere(root string) error {
	return &refusal{status: http.StatusBadRequest, code: "INVALID_PARAMETER_VALUE",
		message: fmt.Sprintf("its artifact root %q is not served by it: start it with --serve-artifacts", root)}
}

func (m *Mirror) deliverFile(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	var a outbox.Artifact
	if err := json.Unmarshal([]byte(row.Payload), &a); err != nil {
		return fmt.Errorf("outbox row %d: %w", row.Seq, err)
	}
	root, ok := proxied(lane.RemoteRoot)
	if !ok {
		return elsewhere(lane.RemoteRoot)
	}
	return m.upload(ctx, root, catalog.File{Name: a.Path, SHA256: a.SHA256, Size: a.Size, ObjectKey: a.ObjectKey})
}

// upload streams one file from our object store to theirs. Bytes without their digest break
// the request off, so that no damaged file appears over there.
func (m *Mirror) upload(ctx context.Context, root string, f catalog.File) error {
	body, err := contents.Open(ctx, m.Objects, f)
	if err == nil {
		defer func() { _ = body.Close() }() // only read
		err = m.client.put(ctx, join(root, f.Name), body, f.Size)
	}
	if errors.Is(err, objectstore.ErrNotFound) {
		return &refusal{status: http.StatusNotFound, code: "GONE_HERE", message: "the file's bytes are not in our object store any more"}
	}
	return err
}

// uploadMissing sends the files that are not over there with their size, manifests last.
func (m *Mirror) uploadMissing(ctx context.Context, root, dir string, files []catalog.File) error {
	there, err := m.client.files(ctx, root, dir)
	if err != nil {
		return err
	}
	for _, f := range outbox.ManifestsLast(files, func(f catalog.File) string { return f.Name }) {
		f.Name = join(dir, f.Name)
		if size, ok := there[f.Name]; ok && size == f.Size {
			continue
		}
		if err := m.upload(ctx, root, f); err != nil {
			return err
		}
	}
	return nil
}

// deleteFiles deletes a path and everything under it.
func (m *Mirror) deleteFiles(ctx context.Context, lane postgres.Lane, row postgres.OutboxRow) error {
	var a outbox.Artifact
	if err := json.Unmarshal([]byte(row.Payload), &a); err != nil {
		return fmt.Errorf("outbox row %d: %w", row.Seq, err)
	}
	root, ok := proxied(lane.RemoteRoot)
	if !ok {
		return elsewhere(lane.RemoteRoot)
	}
	files, err := m.client.files(ctx, root, a.Path)
	if err != nil {
		return err
	}
	if len(files) == 0 { // a file, not a directory
		siblings, err := m.client.files(ctx, root, dirOf(a.Path))
		if err != nil {
			return err
		}
		if _, there := siblings[a.Path]; !there {
			return nil
		}
		files = map[string]int64{a.Path: 0}
	}
	for file := range files {
		err := m.client.json(ctx, http.MethodDelete, artifacts+"/"+escape(join(root, file)), nil, nil)
		if _, gone := refusedAs(err, "RESOURCE_DOES_NOT_EXIST"); err != nil && !gone {
			return err
		}
	}
	return nil
}

func dirOf(p string) string {
	if d := path.Dir(p); d != "." {
		return d
	}
	return ""
}
