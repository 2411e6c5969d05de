package rpcclient

import (
	"fmt"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

// CheckTarget says what is wrong with a host:port or a list of them.
func CheckTarget(target string) error {
	for _, address := range strings.Split(target, ",") {
		if _, _, err := net.SplitHostPort(strings.TrimSpace(address)); err != nil {
			return fmt.Errorf("%q is not host:port, or several with commas between them", target)
		}
	}
	return nil
}

// replicas turns a list of addresses into a target of its own scheme. gRPC tries
// them in order, the next one after a quarter of a second without waiting for the
// one before: a replica that stands by takes connections and answers none of them.
// When the connection breaks the next call tries all of them again, so that callers
// follow whoever serves. A look at each replica's health was the alternative; it
// costs a stream per replica and sees nothing that the handshake does not show.
func replicas(target string) ([]grpc.DialOption, string, error) {
	if !strings.Contains(target, ",") {
		return nil, target, nil
	}
	if err := CheckTarget(target); err != nil {
		return nil, "", err
	}
	const scheme = "replicas"
	var state resolver.State
	var names []string
	for _, address := range strings.Split(target, ",") {
		a := resolver.Address{Addr: strings.TrimSpace(address)}
		names = append(names, a.Addr)
		state.Endpoints = append(state.Endpoints, resolver.Endpoint{Addresses: []resolver.Address{a}})
	}
	r := manual.NewBuilderWithScheme(scheme)
	r.InitialState(state)
	return []grpc.DialOption{grpc.WithResolvers(r)}, scheme + ":///" + strings.Join(names, ","), nil
}
