package archtest

// Tiers says which tier every internal package of a service belongs to. A new package has to be entered here: the choice
// between deciding and doing is made once, on purpose.
type Tiers map[string]Service

// Service is the tier table of one service; the names are those of directories below its internal/.
type Service struct {
	// Pure packages decide: standard library and pure siblings only, no I/O, no clock, no global randomness.
	Pure []string
	// Shell packages do the I/O.
	Shell []string
	// API lists the shell packages at which proto types stop.
	API []string
}

// Trainyard is this repository's table.
var Trainyard = Tiers{
	"services/scheduler": {
		Pure:  []string{"job", "placement", "lease", "cron", "learn"},
		Shell: []string{"cycle", "postgres", "memstore", "archive", "jobapi", "agentapi", "registryclient", "failpoint", "sim"},
		API:   []string{"jobapi", "agentapi", "registryclient"},
	},
	"services/gpu-agent": {
		Pure: []string{"reconcile", "device", "lease", "memwatch"},
		Shell: []string{
			"cgroup", "cpusource", "disk", "host", "journal", "launch", "logapi", "metrics", "nvmlsource", "procfs", "reach",
			"registryclient", "restore", "session", "spool", "staging", "trackproxy", "trainapi", "upload", "watchdog", "wire",
		},
		API: []string{"registryclient", "wire", "session", "trainapi", "logapi"},
	},
	"services/trainer": {
		Pure:  []string{"run", "reward", "market"},
		Shell: []string{"chart", "features", "onnx", "learner", "command", "checkpoint", "report", "specialist"},
		API:   []string{"report"},
	},
	"services/registry": {
		Pure:  []string{"catalog", "filter", "outbox", "series"},
		Shell: []string{"contents", "ingest", "mlflowapi", "mlflowmirror", "postgres", "registryapi"},
		API:   []string{"registryapi"},
	},
	"services/checkpoint-janitor": {
		Pure: []string{"retention", "usage"},
		Shell: []string{
			"archive", "drill", "inventory", "janitorapi", "localtree", "metrics", "notify", "offline", "planning", "policyfile", "postgres", "registryapi", "replay", "report", "schedule",
			"scrub", "sweep", "tiers",
		},
		API: []string{"janitorapi", "registryapi"},
	},
}

// pureForbidden are the standard library's doors to the outside world, to other goroutines' lifetimes and to hidden state.
// A forbidden package forbids what lies below it.
var pureForbidden = []string{
	"context", "crypto/rand", "database/sql", "expvar", "io/ioutil", "log", "math/rand", "net", "os", "plugin", "syscall", "testing",
}

// pureAllowed are exceptions below pureForbidden.
var pureAllowed = []string{"math/rand/v2"}

// impureCalls are functions of otherwise pure packages that read a clock, wait, or draw from global randomness.
var impureCalls = map[string][]string{
	"time": {"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "NewTimer", "NewTicker", "Tick"},
	"math/rand/v2": {
		"ExpFloat64", "Float32", "Float64", "Int", "Int32", "Int32N", "Int64", "Int64N", "IntN", "N", "NormFloat64", "Perm",
		"Shuffle", "Uint", "Uint32", "Uint32N", "Uint64", "Uint64N", "UintN",
	},
}

// fenced are dependencies that only some packages may know, so that replacing one is a local change.
var fenced = []struct {
	name, dependency string
	allowed          []string
	// instead tells who stumbled over it where the work belongs.
	instead string
}{
	{
		name: "pgx", dependency: "github.com/jackc/pgx", allowed: []string{"libs/pg", "libs/idempotency", "services/*/internal/postgres", "tools"},
		instead: "SQL lives in the service's postgres package",
	},
	{
		name: "database/sql", dependency: "database/sql", allowed: []string{"libs/pg"},
		instead: "SQL lives in the service's postgres package, over pgx",
	},
	{
		name: "go-nvml", dependency: "github.com/NVIDIA/go-nvml", allowed: []string{"services/gpu-agent/internal/nvmlsource"},
		instead: "devices come from the agent's device.Source",
	},
	{
		name: "minio", dependency: "github.com/minio/minio-go", allowed: []string{"libs/objectstore"},
		instead: "objects go through libs/objectstore",
	},
	{
		name: "goose", dependency: "github.com/pressly/goose", allowed: []string{"libs/pg"},
		instead: "migrations run through libs/pg",
	},
}

// bannedNames say nothing about what a package is for, so everything ends up in it.
var bannedNames = []string{
	"base", "clock", "common", "constants", "core", "helper", "helpers", "interfaces", "lib", "misc", "models", "shared", "types",
	"util", "utils",
}

// maxLines is the length beyond which a file holds more than one thought.
const maxLines = 600

// maxMainLines keeps main a list: configuration, New, Run.
const maxMainLines = 80
