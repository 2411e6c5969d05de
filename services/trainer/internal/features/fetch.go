package features

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/ultrathink-pilot/trainyard/libs/telemetry"
)

const (
	mediaArrow = "application/vnd.apache.arrow.file"
	mediaJSON  = "application/json"
	// maxBody bounds an answer: forty million values and more.
	maxBody = 1 << 30
	// maxBackoff bounds the wait between two attempts.
	maxBackoff = 5 * time.Second
)

// RefusedError is the service's final answer about a table: asking again is in
// vain until the job or the data changes.
type RefusedError struct {
	Symbol, Timeframe string
	// Code is the service's own, such as unknown_symbol, unknown_timeframe, refused.
	Code string
	// Message is the service's sentence.
	Message string
	// Problems has every problem of a history that the service refused.
	Problems []string
	// Available maps each symbol that exists to its timeframes.
	Available map[string][]string
}

func (e *RefusedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "data service: %s %s: %s", e.Symbol, e.Timeframe, e.Message)
	for _, p := range e.Problems {
		b.WriteString("; " + p)
	}
	if len(e.Available) > 0 {
		names := make([]string, 0, len(e.Available))
		for name := range e.Available {
			names = append(names, name)
		}
		sort.Strings(names)
		for i, name := range names {
			names[i] = fmt.Sprintf("%s (%s)", name, strings.Join(e.Available[name], ", "))
		}
		b.WriteString("; available: " + strings.Join(names, ", "))
	}
	return b.String()
}

// UnavailableError says that the service did not answer as it should, after all attempts.
type UnavailableError struct {
	BaseURL string
	Cause   error
}

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("data service %s is unavailable: %v", e.BaseURL, e.Cause)
}

// Unwrap returns the last attempt's error.
func (e *UnavailableError) Unwrap() error { return e.Cause }

// answer is a verified Arrow file, or the news that nothing changed.
type answer struct {
	notModified bool
	tag         string
	body        []byte
}

// errTryJSON asks for the same table again in the plainer form.
var errTryJSON = errors.New("the Arrow answer cannot be used")

// fetch gets the table in Arrow form, converting it where the service only
// speaks JSON.
func (c *Client) fetch(ctx context.Context, k key, tag string) (answer, error) {
	accept := mediaArrow + ", " + mediaJSON + ";q=0.5"
	wait := c.backoff
	var last error
	for attempt := 1; attempt <= c.attempts; attempt++ {
		a, err := c.once(ctx, k, tag, accept)
		var refused *RefusedError
		switch {
		case err == nil || errors.As(err, &refused):
			return a, err
		case ctx.Err() != nil:
			return answer{}, context.Cause(ctx)
		case errors.Is(err, errTryJSON):
			c.log.Warn("falling back to JSON", zap.Error(err))
			accept = mediaJSON
		}
		last = err
		if attempt == c.attempts {
			break
		}
		c.log.Debug("data service attempt failed", zap.Int("attempt", attempt), zap.Error(err))
		// Half fixed, half random: trainers that lost the service together must not come back together.
		pause := time.NewTimer(wait/2 + time.Duration(rand.Int64N(int64(wait/2)+1)))
		select {
		case <-ctx.Done():
			pause.Stop()
			return answer{}, context.Cause(ctx)
		case <-pause.C:
		}
		wait = min(wait*2, maxBackoff)
	}
	return answer{}, &UnavailableError{BaseURL: c.base, Cause: fmt.Errorf("%d attempts: %w", c.attempts, last)}
}

func (c *Client) once(ctx context.Context, k key, tag, accept string) (_ answer, err error) {
	at := c.base + "/api/v1/features/" + url.PathEscape(k.symbol) + "/" + url.PathEscape(k.timeframe)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return answer{}, err
	}
	for name, value := range telemetry.Inject(ctx) {
		request.Header.Set(name, value)
	}
	request.Header.Set("Accept", accept)
	if tag != "" {
		request.Header.Set("If-None-Match", tag)
	}
	response, err := c.http.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer: %w", err)
	}
	if len(body) > maxBody {
		return answer{}, fmt.Errorf("the answer is larger than %d bytes", maxBody)
	}
	switch status := response.StatusCode; {
	case status == http.StatusNotModified && tag != "":
		return answer{notModified: true}, nil
	case status == http.StatusOK:
		return c.accept(response.Header, body)
	case status == http.StatusNotAcceptable && accept != mediaJSON:
		return answer{}, fmt.Errorf("%w: the service answered %s", errTryJSON, response.Status)
	case status == http.StatusTooManyRequests || status == http.StatusRequestTimeout || status >= 500 || status < 400:
		return answer{}, fmt.Errorf("it answered %s", response.Status)
	default:
		return answer{}, refusal(k, response.Status, body)
	}
}

// accept verifies an answer and returns it as Arrow.
func (c *Client) accept(header http.Header, body []byte) (answer, error) {
	media, _, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return answer{}, fmt.Errorf("content type %q: %w", header.Get("Content-Type"), err)
	}
	tag := header.Get("ETag")
	want, verified := reprDigest(header.Get("Repr-Digest"))
	if sum := sha256.Sum256(body); verified && !bytes.Equal(sum[:], want) {
		return answer{}, errors.New("the answer was damaged on its way: its digest differs from Repr-Digest")
	}
	switch media {
	case mediaArrow:
		if !verified {
			return answer{}, fmt.Errorf("%w: it has no sha-256 Repr-Digest", errTryJSON)
		}
		return answer{tag: tag, body: body}, nil
	case mediaJSON:
		arrow, err := arrowFromJSON(body)
		return answer{tag: tag, body: arrow}, err
	default:
		return answer{}, fmt.Errorf("the content type %q is neither Arrow nor JSON", media)
	}
}

// reprDigest reads the sha-256 member of an RFC 9530 field.
func reprDigest(field string) ([]byte, bool) {
	for _, member := range strings.Split(field, ",") {
		text, ok := strings.CutPrefix(strings.TrimSpace(member), "sha-256=:")
		if !ok {
			continue
		}
		sum, err := base64.StdEncoding.DecodeString(strings.TrimSuffix(text, ":"))
		if err == nil && len(sum) == sha256.Size {
			return sum, true
		}
	}
	return nil, false
}

func refusal(k key, status string, body []byte) error {
	e := &RefusedError{Symbol: k.symbol, Timeframe: k.timeframe}
	var wire struct {
		Error     string              `json:"error"`
		Message   string              `json:"message"`
		Problems  []string            `json:"problems"`
		Available map[string][]string `json:"available"`
	}
	if err := json.Unmarshal(body, &wire); err != nil || wire.Message == "" {
		e.Code, e.Message = "refused", "it answered "+status
		return e
	}
	e.Code, e.Message, e.Problems, e.Available = wire.Error, wire.Message, wire.Problems, wire.Available
	return e
}
