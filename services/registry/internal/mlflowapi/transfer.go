package mlflowapi

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/objectstore"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/catalog"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/contents"
	"github.com/ultrathink-pilot/trainyard/services/registry/internal/postgres"
)

// ranged reads an object piece by piece, as http.ServeContent asks. A piece cannot be
// checked against the whole's digest: who wants proof downloads the whole, or checks the
// ETag, which is the digest, at the end.
type ranged struct {
	ctx     context.Context // the request's: io.Reader has no place for it
	objects *objectstore.Store
	file    catalog.File
	at      int64
	body    io.ReadCloser
}

func (r *ranged) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.file.Size
	}
	if offset != r.at && r.body != nil {
		_ = r.body.Close() // only read
		r.body = nil
	}
	r.at = offset
	return offset, nil
}

func (r *ranged) Read(b []byte) (int, error) {
	if r.at >= r.file.Size {
		return 0, io.EOF
	}
	if r.body == nil {
		body, err := contents.OpenRange(r.ctx, r.objects, r.file, r.at, r.file.Size-r.at)
		if err != nil {
			return 0, err
		}
		r.body = body
	}
	n, err := r.body.Read(b)
	r.at += int64(n)
	return n, err
}

func (r *ranged) Close() error {
	if r.body == nil {
		return nil
	}
	return r.body.Close()
}

// An upload in parts goes to a key of its own, straight from the client to the object store.
// When it is complete its bytes are read once for their digest, which names the blob, and
// copied there. All that must be remembered meanwhile is in the upload's id.
const (
	uploadsPrefix = "uploads/"
	mostParts     = 10_000
	partTime      = 6 * time.Hour
)

// noParts are the words on which clients fall back to one PUT.
var errNoParts = &apiError{"NOT_IMPLEMENTED", "Multipart upload is not supported for the current artifact repository"}

type partDTO struct {
	URL     string            `json:"url"`
	Number  int               `json:"part_number"`
	Headers map[string]string `json:"headers,omitempty"`
	ETag    string            `json:"etag,omitempty"`
}

// uploadID is what a multipart upload's id holds.
type uploadID struct {
	Key    string `json:"k"`
	Upload string `json:"u"`
}

func (id uploadID) String() string {
	raw, _ := json.Marshal(id) // two strings always marshal
	return base64.RawURLEncoding.EncodeToString(raw)
}

func readUploadID(text string) (uploadID, error) {
	var id uploadID
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(raw, &id)
	}
	if err != nil || id.Upload == "" || !strings.HasPrefix(id.Key, uploadsPrefix) || strings.Contains(id.Key, "..") {
		return id, invalid("Invalid value for parameter 'upload_id' supplied.")
	}
	return id, nil
}

// serveParts answers mpu/create, mpu/complete and mpu/abort. The directory in the route and
// the file's name in the body make the path.
func (s *Server) serveParts(w http.ResponseWriter, r *http.Request, rest string) error {
	verb, dir, _ := strings.Cut(strings.TrimPrefix(rest, "mpu/"), "/")
	if r.Method != http.MethodPost || !slices.Contains([]string{"create", "complete", "abort"}, verb) {
		return &apiError{"ENDPOINT_NOT_FOUND", "No route for " + r.Method + " " + r.URL.Path}
	}
	in, err := readArgs(w, r)
	if err != nil {
		return err
	}
	p, err := in.need("path")
	if err != nil {
		return err
	}
	if dir != "" && !strings.HasPrefix(p, dir) {
		p = dir + "/" + p
	}
	l, err := locate(p)
	if err != nil {
		return err
	}
	if l.run == "" && l.model == "" || l.path == "" {
		return &apiError{"PERMISSION_DENIED", "Only the artifacts of runs and logged models can be written here"}
	}
	var answer any
	switch verb {
	case "create":
		answer, err = s.createParts(r.Context(), in, l)
	case "complete":
		err = s.completeParts(r, in, l)
	default:
		var id uploadID
		if id, err = in.uploadID(); err == nil {
			err = s.Objects.AbortParts(r.Context(), id.Key, id.Upload)
		}
	}
	if errors.Is(err, objectstore.ErrUnsupported) {
		return errNoParts
	}
	if err != nil {
		return err
	}
	if answer == nil {
		answer = struct{}{}
	}
	s.answer(w, http.StatusOK, answer)
	return nil
}

func (a args) uploadID() (uploadID, error) {
	text, err := a.need("upload_id")
	if err != nil {
		return uploadID{}, err
	}
	return readUploadID(text)
}

func (s *Server) createParts(ctx context.Context, in args, l location) (any, error) {
	n, err := in.integer("num_parts", 0)
	if err != nil {
		return nil, err
	}
	if n < 1 || n > mostParts {
		return nil, invalid("Invalid value %d for parameter 'num_parts' supplied. It must be between 1 and %d.", n, mostParts)
	}
	if l.run != "" { // a run that cannot be written is known before gigabytes travel
		if err := s.do(ctx, func(t *postgres.Tx) error { return t.CheckRun(ctx, l.run, guardOf(ctx)) }); err != nil {
			return nil, runError(err, l.run)
		}
	}
	id := uploadID{Key: uploadsPrefix + newArtifactID()}
	if id.Upload, err = s.Objects.BeginParts(ctx, id.Key, false); err != nil {
		return nil, err
	}
	parts := make([]partDTO, 0, n)
	for i := 1; i <= int(n); i++ {
		request, err := s.Objects.PresignPart(ctx, id.Key, id.Upload, objectstore.Part{Number: i}, partTime)
		if err != nil {
			return nil, err
		}
		parts = append(parts, partDTO{URL: request.URL, Number: i, Headers: request.Headers})
	}
	return map[string]any{"upload_id": id.String(), "credentials": parts}, nil
}

func (s *Server) completeParts(r *http.Request, in args, l location) error {
	ctx := r.Context()
	id, err := in.uploadID()
	if err != nil {
		return err
	}
	raw, _ := in.raw("parts")
	var sent []partDTO
	if err := json.Unmarshal(raw, &sent); err != nil || len(sent) == 0 {
		return invalid("Missing value for required parameter 'parts'.%s", apiDocs)
	}
	parts := make([]objectstore.Part, 0, len(sent))
	for _, p := range sent {
		parts = append(parts, objectstore.Part{Number: p.Number, ETag: p.ETag})
	}
	if err := s.Objects.CompleteParts(ctx, id.Key, id.Upload, parts); err != nil {
		if errors.Is(err, objectstore.ErrUnavailable) || errors.Is(err, objectstore.ErrUnsupported) {
			return err
		}
		s.Log.Info("multipart upload refused", zap.Error(err))
		return invalid("The parts do not make up the upload; upload it again.")
	}
	u, err := s.digest(ctx, id.Key)
	if err != nil {
		return err
	}
	if err := s.publish(ctx, l, u, r.Header.Get("Content-Type")); err != nil {
		return err
	}
	if err := s.Objects.Delete(ctx, id.Key); err != nil {
		s.Log.Warn("the parts' own copy was left behind", zap.String("key", id.Key), zap.Error(err))
	}
	return nil
}

// digest reads an assembled upload once.
func (s *Server) digest(ctx context.Context, key string) (upload, error) {
	object, err := s.Objects.Stat(ctx, key)
	if err != nil {
		return upload{}, err
	}
	body, err := s.Objects.GetRange(ctx, key, 0, object.Size)
	if err != nil {
		return upload{}, err
	}
	defer func() { _ = body.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, body); err != nil {
		return upload{}, fmt.Errorf("read upload: %w", err)
	}
	return upload{size: object.Size, digest: hex.EncodeToString(sum.Sum(nil)),
		open: func() (io.ReadCloser, error) { return s.Objects.GetRange(ctx, key, 0, object.Size) }}, nil
}

// publish stores an upload's bytes under their digest and shows them under their path.
func (s *Server) publish(ctx context.Context, l location, u upload, mediaType string) error {
	file := catalog.File{Name: l.path, SHA256: u.digest, Size: u.size}
	if l.model != "" {
		return s.publishModelFile(ctx, l.model, file, u, mediaType)
	}
	g := guardOf(ctx)
	var staged postgres.Artifact
	err := s.do(ctx, func(t *postgres.Tx) (err error) {
		staged, err = t.StageArtifact(ctx, l.run, g, file)
		return err
	})
	if err != nil {
		return runError(err, l.run)
	}
	if err := s.store(ctx, staged, u); err != nil {
		return err
	}
	return runError(s.do(ctx, func(t *postgres.Tx) error {
		_, err := t.PublishArtifact(ctx, newArtifactID(), l.run, g, file, mediaType)
		return err
	}), l.run)
}
