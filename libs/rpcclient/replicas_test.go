package rpcclient_test

import (
	"net"
	"path/filepath"
	"testing"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
)

// Of several replicas one serves; the others listen and answer nothing, as a
// scheduler does that stands by. Callers find the one, and follow when another
// takes over.
func TestCallersFollowTheReplicaThatServes(t *testing.T) {
	t.Parallel()
	a, err := identity.NewAuthority(filepath.Join(t.TempDir(), "pki"))
	if err != nil {
		t.Fatal(err)
	}
	listen := func() net.Listener {
		lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = lis.Close() })
		return lis
	}
	dead, standby, first := listen(), listen(), listen()
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	leader := serve(t, a, first)
	target := dead.Addr().String() + ", " + standby.Addr().String() + "," + leader.address
	conn := leader.dialAt(t, target, identity.RolePerson, identity.RoleScheduler)
	if err := list(t.Context(), conn); err != nil {
		t.Fatalf("with one replica down and one standing by: %v", err)
	}
	leader.stop()
	next := serve(t, a, standby)
	if err := list(t.Context(), conn); err != nil {
		t.Fatalf("after another replica took over: %v", err)
	}
	if n := next.fleet.calls.Load(); n != 1 {
		t.Errorf("the new one got %d calls, want 1", n)
	}
}

func TestAListOfAddressesIsChecked(t *testing.T) {
	t.Parallel()
	for target, good := range map[string]bool{"a:1": true, "a:1,b:2": true, "[::1]:1, b:2": true, "": false, "a": false, "a:1,": false, "a:1,b": false} {
		if err := rpcclient.CheckTarget(target); (err == nil) != good {
			t.Errorf("%q: %v", target, err)
		}
	}
	if _, err := rpcclient.Dial("a:1,b", rpcclient.Options{}); err == nil {
		t.Error("a list with a part that is no address was taken")
	}
}
