// Package pagetoken makes the opaque page tokens of List calls. A token holds the
// sort key of the last row (never an offset, which skips and repeats rows when
// others write) and a hash of the filter, so that a token of one query cannot
// continue another. It is not secret and not signed: a caller that forges one
// reaches only rows that its own filter would have shown.
package pagetoken

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
)

// ErrInvalid is the error of every token that Decode refuses. An api package maps it
// to INVALID_ARGUMENT on the field page_token.
var ErrInvalid = errors.New("the page token is not from this query; repeat the list from its start, with the same filter on every page")

type token struct {
	Filter string   `json:"f"`
	Cursor []string `json:"c"`
}

// FilterHash digests everything that chooses and orders the rows of a List call.
func FilterHash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		sum := sha256.Sum256([]byte(p)) // fixed length, so that ("ab","c") is not ("a","bc")
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:12])
}

// Encode makes a token from FilterHash's value and the sort key of the last row.
func Encode(filterHash string, cursor ...string) string {
	raw, err := json.Marshal(token{Filter: filterHash, Cursor: cursor})
	if err != nil {
		panic(err) // strings always marshal
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Decode returns the cursor of a token. An empty token is the first page: nil, nil.
// parts is how many strings the cursor must have.
func Decode(filterHash, pageToken string, parts int) ([]string, error) {
	if pageToken == "" {
		return nil, nil
	}
	raw, err := base64.RawURLEncoding.DecodeString(pageToken)
	if err != nil {
		return nil, ErrInvalid
	}
	var t token
	if err := json.Unmarshal(raw, &t); err != nil || t.Filter != filterHash || len(t.Cursor) != parts {
		return nil, ErrInvalid
	}
	return t.Cursor, nil
}

// Size coerces a requested page size: 0 and less become def, more than most becomes most.
func Size(requested int32, def, most int) int {
	switch n := int(requested); {
	case n <= 0:
		return def
	case n > most:
		return most
	default:
		return n
	}
}
