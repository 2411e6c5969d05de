package modelclient_test

import (
	"context"
	"log"
	"os"
	"sync/atomic"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/modelclient"
)

// An inference service that swaps its weights without dropping a request.
func Example() {
	ctx := context.Background()
	tls, err := identity.ClientTLS(identity.Files{Cert: "inference.pem", Key: "inference-key.pem", CA: "ca.pem"}, identity.RoleRegistry)
	if err != nil {
		log.Fatal(err)
	}
	client, err := modelclient.Open(modelclient.Config{Registry: "registry:7702", TLS: tls, Dir: "/var/cache/models"})
	if err != nil {
		log.Fatal(err)
	}
	bull := client.Follow(ctx, "bull_specialist")
	if _, err := bull.Wait(ctx); err != nil { // at once from the cache, else as soon as the registry answers
		log.Fatal(err)
	}
	var weights atomic.Pointer[[]byte] // what requests read
	for range bull.Changed() {
		model := bull.Current()
		b, err := os.ReadFile(model.Path("model.safetensors"))
		if err != nil {
			log.Fatal(err)
		}
		weights.Store(&b)
		log.Printf("serving version %d (live: %v, registry heard: %v)", model.Version, bull.Live(), bull.Online())
	}
}
