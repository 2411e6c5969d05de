package mlflowapi

import (
	"path"
	"regexp"
	"strings"
	"unicode/utf8"
)

// MLflow's limits, in characters and entries.
const (
	maxKey            = 250
	maxParamValue     = 6000
	maxRunTag         = 8000
	maxExperimentName = 500
	maxExperimentTag  = 20_000
	maxRegistryTag    = 100_000
	maxAlias          = 255
	maxBatchMetrics   = 1000
	maxBatchPairs     = 100
	maxBatchAll       = 1000
)

var (
	keyPattern     = regexp.MustCompile(`^[/\w.\- :]*$`)
	aliasPattern   = regexp.MustCompile(`^[\w\-]*$`)
	versionPattern = regexp.MustCompile(`^[vV]\d+$`)
)

// checkKey refuses keys that MLflow refuses: odd characters, and paths that name another key.
func checkKey(field, key string) error {
	if key == "" {
		return invalid("Missing value for required parameter '%s'.%s", strings.Replace(field, "].name", "].key", 1), apiDocs)
	}
	if !keyPattern.MatchString(key) {
		return invalid("Invalid value %q for parameter '%s' supplied: Names may only contain alphanumerics, underscores (_), dashes (-), periods (.), spaces ( ), colon(:) and slashes (/).", key, field)
	}
	if n := path.Clean(key); n != key || n == "." || strings.HasPrefix(n, "..") || strings.HasPrefix(n, "/") {
		return invalid("Invalid value %q for parameter '%s' supplied: Names may be treated as files in certain cases, and must not resolve to other names when treated as such. This name would resolve to '%s'", key, field, n)
	}
	switch {
	case strings.HasSuffix(field, "name"):
		field = "Metric name"
	case strings.HasPrefix(field, "param"):
		field = "Param key"
	}
	return checkLength(field, key, maxKey)
}

func checkLength(field, value string, most int) error {
	if utf8.RuneCountInString(value) > most {
		return invalid("'%s' exceeds the maximum length of %d characters", field, most)
	}
	return nil
}

// truncate cuts to n characters, as MLflow does with long param and tag values by default.
func truncate(value string, n int) string {
	if len(value) <= n {
		return value
	}
	for i := range value {
		if n == 0 {
			return value[:i]
		}
		n--
	}
	return value
}

func checkAlias(alias string) error {
	switch {
	case alias == "":
		return invalid("Registered model alias name cannot be empty.")
	case !aliasPattern.MatchString(alias):
		return invalid("Invalid alias name: '%s'. Names may only contain alphanumerics, underscores (_), and dashes (-).", alias)
	case strings.EqualFold(alias, "latest"):
		return invalid("'latest' alias name (case insensitive) is reserved.")
	case versionPattern.MatchString(alias):
		return invalid("Version alias name '%s' is reserved.", alias)
	}
	return checkLength("Registered model alias name", alias, maxAlias)
}

func checkExperimentName(name string) error {
	if name == "" {
		return invalid("Invalid experiment name: '%s'", name)
	}
	return checkLength("name", name, maxExperimentName)
}
