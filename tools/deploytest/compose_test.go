package deploytest

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"

	janitor "github.com/ultrathink-pilot/trainyard/services/checkpoint-janitor"
	gpuagent "github.com/ultrathink-pilot/trainyard/services/gpu-agent"
	"github.com/ultrathink-pilot/trainyard/services/registry"
	"github.com/ultrathink-pilot/trainyard/services/scheduler"
	"github.com/ultrathink-pilot/trainyard/tools/internal/dataservice"
)

const root = "../.."

// configs are the configurations behind the compose services that are ours, with the name under which each is loaded.
var configs = map[string]struct {
	name   string
	config any
}{
	"scheduler":          {"scheduler", scheduler.Config{}},
	"registry":           {"registry", registry.Config{}},
	"checkpoint-janitor": {janitor.Service, janitor.Config{}},
	"gpu-agent":          {"gpu-agent", gpuagent.Config{}},
	"dataservice":        {"dataservice", dataservice.Config{}},
}

// neighbours are what DESIGN asks for beside our own services, by image.
var neighbours = map[string]string{
	"postgres":  "timescale/timescaledb:",
	"s3":        "trainyard/versitygw:",
	"mlflow":    "mlflow/mlflow:",
	"collector": "otel/opentelemetry-collector",
	"jaeger":    "jaegertracing/jaeger:",
}

func load(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")},
		cli.WithWorkingDirectory(root), cli.WithName("trainyard"), cli.WithConsistency(true))
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("the compose specification's loader refuses docker-compose.yml: %v", err)
	}
	return project
}

func TestComposeNamesTheWholeMesh(t *testing.T) {
	t.Parallel()
	project := load(t)
	for name := range configs {
		if _, found := project.Services[name]; !found {
			t.Errorf("%s is missing", name)
		}
	}
	for name, image := range neighbours {
		if service := project.Services[name]; !strings.Contains(service.Image, image) {
			t.Errorf("%s: image %q is not %s", name, service.Image, image)
		}
	}
}

func TestComposeSetsWhatTheServicesRead(t *testing.T) {
	t.Parallel()
	project := load(t)
	for name, ours := range configs {
		known, required := settings(ours.name, reflect.TypeOf(ours.config), "")
		set := project.Services[name].Environment
		for variable := range set {
			if !slices.Contains(known, variable) {
				t.Errorf("%s: %s is no setting of the service; it would refuse to start", name, variable)
			}
		}
		for _, variable := range required {
			if value := set[variable]; value == nil || *value == "" {
				t.Errorf("%s: the required setting %s is missing", name, variable)
			}
		}
	}
}

// settings lists the environment variables of a configuration struct, and those without which it refuses to start.
func settings(service string, config reflect.Type, prefix string) (known, required []string) {
	for i := range config.NumField() {
		field := config.Field(i)
		key := field.Tag.Get("conf")
		if key == "" {
			continue
		}
		if field.Type.Kind() == reflect.Struct {
			inner, needed := settings(service, field.Type, prefix+key+"-")
			known, required = append(known, inner...), append(required, needed...)
			continue
		}
		variable := "TRAINYARD_" + strings.ToUpper(strings.ReplaceAll(service+"-"+prefix+key, "-", "_"))
		known = append(known, variable)
		if field.Tag.Get("required") == "true" {
			required = append(required, variable)
		}
	}
	return known, required
}

func TestSystemdConfigurationIsWhatTheAgentReads(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(root, "deploy/systemd/gpu-agent.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var set map[string]any
	if err := yaml.Unmarshal(content, &set); err != nil {
		t.Fatal(err)
	}
	known, required := settings("gpu-agent", reflect.TypeOf(gpuagent.Config{}), "")
	variable := func(key string) string {
		return "TRAINYARD_GPU_AGENT_" + strings.ToUpper(strings.ReplaceAll(key, "-", "_"))
	}
	for key := range set {
		if !slices.Contains(known, variable(key)) {
			t.Errorf("%s is no setting of the agent; it would refuse to start", key)
		}
		required = slices.DeleteFunc(required, func(needed string) bool { return needed == variable(key) })
	}
	if len(required) > 0 {
		t.Errorf("required settings are missing: %v", required)
	}
}

func TestComposeImagesAreOursOrPinned(t *testing.T) {
	t.Parallel()
	for name, service := range load(t).Services {
		_, tag, _ := strings.Cut(service.Image, ":")
		if tag == "" || tag == "latest" {
			t.Errorf("%s: image %q has no fixed tag", name, service.Image)
		}
		if service.Build == nil {
			continue
		}
		if _, err := os.Stat(filepath.Join(root, service.Build.Dockerfile)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		program := service.Build.Args["PROGRAM"]
		if program == nil || service.Image != fmt.Sprintf("trainyard/%s:dev", *program) {
			t.Errorf("%s: image %q is not named for its program", name, service.Image)
		}
	}
}

func TestComposeMountsWhatExists(t *testing.T) {
	t.Parallel()
	for name, service := range load(t).Services {
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestComposeCallsWhoListens(t *testing.T) {
	t.Parallel()
	project := load(t)
	// host:port in a setting, where the host is another compose service.
	address := regexp.MustCompile(`(?:^|[/@])([a-z][a-z0-9-]*):(\d+)`)
	listens := map[string][]string{
		"postgres": {"5432"}, "s3": {"7070"}, "collector": {"4317"}, "jaeger": {"4317"}, "mlflow": {"5000"},
	}
	for name, service := range project.Services {
		for variable, value := range service.Environment {
			if value != nil && strings.HasSuffix(variable, "LISTEN") {
				_, port, _ := strings.Cut(*value, ":")
				listens[name] = append(listens[name], port)
			}
		}
	}
	for name, service := range project.Services {
		for variable, value := range service.Environment {
			if value == nil {
				continue
			}
			for _, match := range address.FindAllStringSubmatch(*value, -1) {
				if !slices.Contains(listens[match[1]], match[2]) {
					t.Errorf("%s: %s names %s:%s, where nobody listens", name, variable, match[1], match[2])
				}
			}
		}
	}
}

func TestComposePublishesOnLoopbackOnly(t *testing.T) {
	t.Parallel()
	for name, service := range load(t).Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network", name, port.Published)
			}
		}
	}
}
