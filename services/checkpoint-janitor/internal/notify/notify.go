// Package notify sends the daily report to a webhook.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
)

const (
	tries   = 4
	timeout = 15 * time.Second
	// firstWait doubles from try to try.
	firstWait = 2 * time.Second
)

// Webhook posts reports as JSON: {"text", "alerts", "report"}. The text alone is what
// chat services show.
type Webhook struct {
	URL string
	// Token is sent as a bearer token when it is not empty.
	Token  string
	Client *http.Client
}

// Check says what is wrong with a URL, empty when nothing is.
func Check(raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "":
		return fmt.Sprintf("report-webhook %q is no URL such as https://chat.example.org/hooks/abc", redacted(raw))
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Sprintf("report-webhook must be http or https, not %q", u.Scheme)
	}
	return ""
}

// redacted keeps what may be a secret out of messages.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "..."
	}
	return u.Scheme + "://" + u.Host + "/..."
}

type body struct {
	Text   string         `json:"text"`
	Alerts []report.Alert `json:"alerts"`
	Report report.Report  `json:"report"`
}

// Send posts a report. A server that is away or overloaded is asked again; one that
// refuses is not.
func (w Webhook) Send(ctx context.Context, r report.Report) error {
	payload, err := json.Marshal(body{Text: r.Text(), Alerts: r.Alerts, Report: r})
	if err != nil {
		return err
	}
	wait := firstWait
	for try := 1; ; try++ {
		again, err := w.post(ctx, payload)
		if err == nil || !again || try == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
		wait *= 2
	}
}

func (w Webhook) post(ctx context.Context, payload []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(payload))
	if err != nil {
		return false, fmt.Errorf("webhook %s: the request cannot be made", redacted(w.URL))
	}
	q.Header.Set("Content-Type", "application/json")
	if w.Token != "" {
		q.Header.Set("Authorization", "Bearer "+w.Token)
	}
	client := w.Client
	if client == nil {
		client = http.DefaultClient
	}
	resp, err := client.Do(q)
	if err != nil {
		// The client's error quotes the URL, which may hold a secret.
		return true, fmt.Errorf("webhook %s is away", redacted(w.URL))
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10)) // for the connection's next use
	if err := resp.Body.Close(); err != nil {
		return false, err
	}
	if resp.StatusCode >= 300 {
		again = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests
		return again, fmt.Errorf("webhook %s answered %s", redacted(w.URL), resp.Status)
	}
	return false, nil
}
