package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

type s3 struct {
	Endpoint string `conf:"endpoint" usage:"S3 endpoint"`
	Key      Secret `conf:"key" usage:"S3 secret key"`
}

type sample struct {
	Listen string            `conf:"listen" default:"127.0.0.1:0" usage:"where to serve"`
	DSN    string            `conf:"dsn" required:"true" secret:"true" usage:"Postgres"`
	Lease  time.Duration     `conf:"lease" default:"15s" usage:"lease length"`
	Spool  Bytes             `conf:"spool" default:"256MiB" usage:"spool bound"`
	Debug  bool              `conf:"debug" usage:"more logs"`
	Lanes  int               `conf:"lanes" default:"2" usage:"CPU lanes"`
	Hosts  []string          `conf:"hosts" usage:"allowed hosts"`
	Labels map[string]string `conf:"labels" usage:"labels"`
	S3     s3                `conf:"s3"`
}

func (s *sample) Validate() []string {
	if s.Lanes < 1 {
		return []string{"lanes: must be at least 1"}
	}
	return nil
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := write(t, "c.yaml", "lease: 1m\nspool: 1GiB\nlanes: 5\nhosts: [a, b]\nlabels: {zone: z1}\ns3:\n  endpoint: e\n")
	var c sample
	err := load("scheduler", &c, []string{"--config", file, "--lanes=7", "-debug", "--dsn-file", write(t, "dsn", "postgres://x\n")},
		[]string{"TRAINYARD_SCHEDULER_SPOOL=2GiB", "TRAINYARD_SCHEDULER_LANES=6", "TRAINYARD_SCHEDULER_S3_KEY=k", "TRAINYARD_SCHEDULER_PORT_7070_TCP_ADDR=10.0.0.1", "HOME=/"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := sample{
		Listen: "127.0.0.1:0", DSN: "postgres://x", Lease: time.Minute, Spool: 2 << 30, Debug: true, Lanes: 7,
		Hosts: []string{"a", "b"}, Labels: map[string]string{"zone": "z1"}, S3: s3{Endpoint: "e", Key: "k"},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	t.Parallel()
	file := write(t, "c.yaml", "leese: 1m\nspool: lots\n")
	var c sample
	err := load("gpu-agent", &c, []string{"--config=" + file, "--lanes=many", "--lese=3s", "extra", "--s3-key=hunter2", "--debug=maybe"},
		[]string{"TRAINYARD_GPU_AGENT_LISTEM=x"}, nil)
	var ce *Error
	if !errors.As(err, &ce) {
		t.Fatalf("got %v, want *Error", err)
	}
	for _, want := range []string{
		`:1: unknown key "leese"; did you mean "lease"?`,
		`"lots" is not a size`,
		`lanes: --lanes: "many" is not a whole number`,
		`unknown flag --lese; did you mean "lease"?`,
		`unexpected argument "extra"`,
		`--s3-key is a secret`,
		`debug: --debug: "maybe" is neither true nor false`,
		`TRAINYARD_GPU_AGENT_LISTEM; did you mean "listen"?`,
		`dsn: required (Postgres); set TRAINYARD_GPU_AGENT_DSN or --dsn-file`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing: %s", want)
		}
	}
	if len(ce.Problems) != 9 {
		t.Errorf("%d problems, want 9:\n%v", len(ce.Problems), err)
	}
	if strings.Contains(err.Error(), "hunter2") {
		t.Error("the message shows a secret")
	}
	if ce.ExitCode() != 2 {
		t.Error("a configuration error must exit with 2")
	}
}

func TestValidatorRunsOnReadableConfig(t *testing.T) {
	t.Parallel()
	var c sample
	err := load("scheduler", &c, []string{"--lanes=0"}, []string{"TRAINYARD_SCHEDULER_DSN=x"}, nil)
	if err == nil || !strings.Contains(err.Error(), "lanes: must be at least 1") {
		t.Errorf("got %v", err)
	}
}

func TestHelpListsEverySettingAndNoSecretFlag(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	var c sample
	if err := load("scheduler", &c, []string{"--help"}, nil, &out); !errors.Is(err, flag.ErrHelp) {
		t.Fatalf("got %v, want flag.ErrHelp", err)
	}
	for _, want := range []string{"--lease", "(default 15s)", "--s3-endpoint", "--dsn-file", "TRAINYARD_SCHEDULER_<NAME>"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("usage lacks %q:\n%s", want, out.String())
		}
	}
}

func TestSecretNeverPrints(t *testing.T) {
	t.Parallel()
	c := s3{Endpoint: "e", Key: "hunter2"}
	asJSON, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%+v %#v %q %x", c, c, c.Key, c.Key), string(asJSON), c.Key.LogValue().String()} {
		if strings.Contains(s, "hunter2") || strings.Contains(s, "68756e74657232") {
			t.Errorf("shows the secret: %s", s)
		}
	}
	if c.Key.Reveal() != "hunter2" {
		t.Error("Reveal must give the value")
	}
}

func TestBytesRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := Bytes(rapid.Uint64().Draw(t, "b"))
		got, err := ParseBytes(b.String())
		if err != nil || got != b {
			t.Fatalf("%d -> %s -> %d, %v", uint64(b), b, uint64(got), err)
		}
	})
}

func TestParseBytes(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]Bytes{"0": 0, "1.5GiB": 3 << 29, "40 gib": 40 << 30, "10kb": 10000, " 7B ": 7} {
		if got, err := ParseBytes(in); err != nil || got != want {
			t.Errorf("ParseBytes(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "-1", "GiB", "1.3B", "1e3", "0x10", "NaN", "99999999TiB", "12 parsecs"} {
		if got, err := ParseBytes(in); err == nil {
			t.Errorf("ParseBytes(%q) = %d, want an error", in, got)
		}
	}
}
