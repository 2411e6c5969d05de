//go:build e2e

package e2e

import (
	"context"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/ultrathink-pilot/trainyard/libs/identity"
	"github.com/ultrathink-pilot/trainyard/libs/rpcclient"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	registryv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/registry/v1"
)

// What grpcurl needs: every server lists its services, says that it is healthy, and lets a person call only what a person may.
func TestEveryServerListsItsServicesAndKnowsItsCallers(t *testing.T) {
	y := start(t)
	ctx := context.Background()
	for _, server := range []struct {
		role     identity.Role
		address  string
		services []string
	}{
		{identity.RoleScheduler, y.desc.Scheduler, []string{"trainyard.job.v1.JobService", "trainyard.fleet.v1.FleetService", "trainyard.fleet.v1.SynchronizeService"}},
		{identity.RoleRegistry, y.desc.Registry, []string{"trainyard.registry.v1.IngestService", "trainyard.registry.v1.RunService", "trainyard.registry.v1.ModelService", "trainyard.registry.v1.RetentionService"}},
		{identity.RoleJanitor, y.desc.Janitor, []string{"trainyard.janitor.v1.JanitorService"}},
		{identity.RoleAgent, y.desc.Agent, []string{"trainyard.train.v1.LogService"}},
	} {
		tls, err := identity.ClientTLS(y.desc.Person, server.role)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := rpcclient.Dial(server.address, rpcclient.Options{TLS: tls})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
		health, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
		if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
			t.Errorf("%s: health %v, %v", server.role, health, err)
		}
		stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
			t.Fatal(err)
		}
		answer, err := stream.Recv()
		if err != nil {
			t.Fatalf("%s: reflection: %v", server.role, err)
		}
		if err := stream.CloseSend(); err != nil {
			t.Error(err)
		}
		var names []string
		for _, s := range answer.GetListServicesResponse().GetService() {
			names = append(names, s.GetName())
		}
		for _, want := range server.services {
			if !slices.Contains(names, want) {
				t.Errorf("%s does not list %s: %v", server.role, want, names)
			}
		}
		if server.role == identity.RoleRegistry {
			_, err := registryv1.NewRetentionServiceClient(conn).ListInventory(ctx, &registryv1.ListInventoryRequest{})
			if status.Code(err) != codes.PermissionDenied {
				t.Errorf("a person called the janitor's service: %v", err)
			}
		}
	}
	if _, err := y.Jobs.ListJobs(ctx, &jobv1.ListJobsRequest{}); err != nil {
		t.Errorf("list jobs: %v", err)
	}
}
