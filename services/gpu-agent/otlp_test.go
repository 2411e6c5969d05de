package gpuagent

import "testing"

func TestTrainersGetTheTraceEndpointAsAURL(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]string{"127.0.0.1:4317": "http://127.0.0.1:4317", "https://c:1": "https://c:1"} {
		if got := otlpURL(endpoint); got != want {
			t.Errorf("%s: %s, want %s", endpoint, got, want)
		}
	}
}
