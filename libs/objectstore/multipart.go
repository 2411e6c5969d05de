package objectstore

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// Part is one part of an upload in parts. S3 wants 1 to 10,000 parts of at least 5 MiB, the
// last one excepted.
type Part struct {
	// Number is 1, 2, ... .
	Number int
	// Size is in bytes.
	Size int64
	// ETag is what the store answered to the part's upload.
	ETag string
	// CRC32C is the part's Castagnoli checksum; it counts when Checked is set.
	CRC32C  uint32
	Checked bool
}

const (
	partChecksumHeader = "X-Amz-Checksum-Crc32c"
	algorithmHeader    = "X-Amz-Checksum-Algorithm"
	partChecksum       = "CRC32C"
	listParts          = 1000
)

// BeginParts opens an upload of key in parts and returns its id. With checked each part has
// to come with its CRC-32C, which the store verifies; the object as a whole has no sha256
// of the store's then, so that Verify reads it.
func (s *Store) BeginParts(ctx context.Context, key string, checked bool) (string, error) {
	return s.backend.begin(ctx, key, checked)
}

// OpenUploads returns the ids of key's unfinished uploads, oldest first.
func (s *Store) OpenUploads(ctx context.Context, key string) ([]string, error) {
	return s.backend.pending(ctx, key)
}

// PresignPart returns a request that stores one part: of exactly this size and, when it is
// Checked, of this checksum.
func (s *Store) PresignPart(ctx context.Context, key, upload string, p Part, ttl time.Duration) (Request, error) {
	headers := http.Header{}
	if p.Size > 0 {
		headers.Set("Content-Length", strconv.FormatInt(p.Size, 10))
	}
	if p.Checked {
		headers.Set(partChecksumHeader, wireCRC(p.CRC32C))
	}
	query := url.Values{"partNumber": {strconv.Itoa(p.Number)}, "uploadId": {upload}}
	return s.backend.presign(ctx, http.MethodPut, key, ttl, query, headers)
}

// Parts returns the parts that the store has, by number. ErrNotFound means that there is no
// such upload: it was completed, aborted, or never begun.
func (s *Store) Parts(ctx context.Context, key, upload string) ([]Part, error) {
	return s.backend.parts(ctx, key, upload)
}

// CompleteParts makes the object of the parts, which have to be all of them, by number.
func (s *Store) CompleteParts(ctx context.Context, key, upload string, parts []Part) error {
	return s.backend.complete(ctx, key, upload, parts)
}

// AbortParts drops an unfinished upload and its parts; one that is not there is no error.
func (s *Store) AbortParts(ctx context.Context, key, upload string) error {
	return s.backend.abort(ctx, key, upload)
}

func wireCRC(sum uint32) string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

func (s *s3) core() minio.Core { return minio.Core{Client: s.client} }

func (s *s3) begin(ctx context.Context, key string, checked bool) (string, error) {
	opts := minio.PutObjectOptions{ContentType: "application/octet-stream"}
	if checked {
		opts.UserMetadata = map[string]string{algorithmHeader: partChecksum}
	}
	id, err := s.core().NewMultipartUpload(ctx, s.bucket, key, opts)
	return id, s.wrap("begin upload of", key, err)
}

func (s *s3) pending(ctx context.Context, key string) ([]string, error) {
	var ids []string
	keyMarker, idMarker := "", ""
	for {
		page, err := s.core().ListMultipartUploads(ctx, s.bucket, key, keyMarker, idMarker, "", listParts)
		if err != nil {
			return nil, s.wrap("list uploads of", key, err)
		}
		for _, u := range page.Uploads {
			if u.Key == key {
				ids = append(ids, u.UploadID)
			}
		}
		if !page.IsTruncated || page.NextKeyMarker > key {
			return ids, nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

func (s *s3) parts(ctx context.Context, key, upload string) ([]Part, error) {
	var out []Part
	for marker := 0; ; {
		page, err := s.core().ListObjectParts(ctx, s.bucket, key, upload, marker, listParts)
		if err != nil {
			return nil, s.wrap("list parts of", key, err)
		}
		for _, p := range page.ObjectParts {
			part := Part{Number: p.PartNumber, Size: p.Size, ETag: strings.Trim(p.ETag, `"`)}
			if raw, err := base64.StdEncoding.DecodeString(p.ChecksumCRC32C); err == nil && len(raw) == 4 {
				part.CRC32C, part.Checked = binary.BigEndian.Uint32(raw), true
			}
			out = append(out, part)
		}
		if !page.IsTruncated {
			return out, nil
		}
		marker = page.NextPartNumberMarker
	}
}

func (s *s3) complete(ctx context.Context, key, upload string, parts []Part) error {
	list := make([]minio.CompletePart, len(parts))
	for i, p := range parts {
		list[i] = minio.CompletePart{PartNumber: p.Number, ETag: p.ETag}
		if p.Checked {
			list[i].ChecksumCRC32C = wireCRC(p.CRC32C)
		}
	}
	_, err := s.core().CompleteMultipartUpload(ctx, s.bucket, key, upload, list, minio.PutObjectOptions{})
	if code := minio.ToErrorResponse(err).Code; code == "InvalidPart" || code == "InvalidPartOrder" {
		return fmt.Errorf("complete %s: %w: %w", key, ErrDigestMismatch, err)
	}
	return s.wrap("complete", key, err)
}

func (s *s3) abort(ctx context.Context, key, upload string) error {
	err := s.core().AbortMultipartUpload(ctx, s.bucket, key, upload)
	if minio.ToErrorResponse(err).Code == "NoSuchUpload" {
		return nil
	}
	return s.wrap("abort upload of", key, err)
}
