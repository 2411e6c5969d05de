package notify

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor/internal/report"
)

// answers serves without a socket, so that the waits between the tries are virtual.
type answers struct {
	codes []int
	calls atomic.Int32
	check func(*http.Request)
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	n := int(a.calls.Add(1)) - 1
	if a.check != nil {
		a.check(r)
	}
	rec := httptest.NewRecorder()
	rec.WriteHeader(a.codes[min(n, len(a.codes)-1)])
	return rec.Result(), nil
}

func TestReportsAreSentUntilTheyArrive(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		codes []int
		calls int32
		fails bool
	}{
		"at once":        {[]int{200}, 1, false},
		"third time":     {[]int{503, 429, 204}, 3, false},
		"never":          {[]int{500}, tries, true},
		"a wrong secret": {[]int{401}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a := &answers{codes: c.codes}
				a.check = func(r *http.Request) {
					var got body
					if err := json.NewDecoder(r.Body).Decode(&got); err != nil || !strings.Contains(got.Text, "Checkpoint store") || len(got.Alerts) != 1 {
						t.Errorf("body %+v %v", got, err)
					}
					if r.Header.Get("Authorization") != "Bearer s3cret" {
						t.Error("no token")
					}
				}
				w := Webhook{URL: "https://hooks.example.org/T/secret", Token: "s3cret", Client: &http.Client{Transport: a}}
				err := w.Send(t.Context(), report.Report{Alerts: []report.Alert{{Name: "x", Text: "y"}}})
				if (err != nil) != c.fails || a.calls.Load() != c.calls {
					t.Errorf("%d calls, %v", a.calls.Load(), err)
				}
				if err != nil && strings.Contains(err.Error(), "secret") {
					t.Errorf("the error tells the URL: %v", err)
				}
			})
		})
	}
}

func TestWrongURLs(t *testing.T) {
	t.Parallel()
	for raw, ok := range map[string]bool{"https://a.example/x": true, "http://127.0.0.1:1": true, "ftp://a/b": false, "a.example": false, "": false, "https://": false} {
		if (Check(raw) == "") != ok {
			t.Errorf("%q: %q", raw, Check(raw))
		}
	}
}
