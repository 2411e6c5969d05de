package jobapi

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	errorv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/error/v1"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/placement"
)

// Defaults fill what a specification leaves open.
type Defaults struct {
	// DeviceBytes is reserved by a job that names no device.
	DeviceBytes int64
	CPUMillis   int64
	HostBytes   int64
	StallLimit  time.Duration
	MinBatch    int
	// NativeBatch is the built-in learner's own default batch size.
	NativeBatch int
}

// StandardDefaults are the defaults that the contract documents.
func StandardDefaults() Defaults {
	return Defaults{DeviceBytes: 512 << 20, CPUMillis: 500, HostBytes: 256 << 20, StallLimit: 10 * time.Minute, MinBatch: 32, NativeBatch: 2048}
}

// specOf reads what the scheduler decides on from a specification. The
// violations are what the rules in the .proto cannot say.
func specOf(in *jobv1.JobSpec, d Defaults) (job.Spec, job.Priority, []rpcerr.Violation, error) {
	var bad []rpcerr.Violation
	payload, err := proto.Marshal(in)
	if err != nil {
		return job.Spec{}, 0, nil, rpcerr.Internal(err)
	}
	s := job.Spec{
		Name: in.GetDisplayName(), Experiment: in.GetExperiment(), Tenant: in.GetTenant(), Payload: payload,
		Batch: int(in.GetBatchSize()), Accumulate: max(int(in.GetGradientAccumulation()), 1), MinBatch: d.MinBatch,
		RunLimit: in.GetTimeLimit().AsDuration(), StallLimit: d.StallLimit, WaitForCapacity: in.GetWaitForCapacity(),
		Demand: job.Demand{CPUMillis: d.CPUMillis, HostBytes: d.HostBytes},
	}
	if s.Tenant == "" {
		s.Tenant = "default"
	}
	if in.GetNative() != nil {
		s.UsualBatch = d.NativeBatch
	}
	if in.GetStallLimit() != nil {
		s.StallLimit = in.GetStallLimit().AsDuration()
	}
	r := in.GetResources()
	if r.GetCpuMillis() > 0 {
		s.Demand.CPUMillis = r.GetCpuMillis()
	}
	if r.GetHostMemoryBytes() > 0 {
		s.Demand.HostBytes = r.GetHostMemoryBytes()
	}
	for i, dev := range r.GetDevices() {
		s.Demand.Devices = append(s.Demand.Devices, job.DeviceDemand{Count: max(int(dev.GetCount()), 1), Kind: dev.GetKind(), Bytes: dev.GetMemoryBytes()})
		keys := make([]string, 0, len(dev.GetLabels()))
		for k := range dev.GetLabels() {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			v := dev.GetLabels()[k]
			if was, ok := s.Demand.Labels[k]; ok && was != v {
				bad = append(bad, rpcerr.Violation{
					Field:       fmt.Sprintf("spec.resources.devices[%d].labels[%q]", i, k),
					Description: fmt.Sprintf("%q contradicts %q of another device: all devices of a job are on one host", v, was),
				})
				continue
			}
			if s.Demand.Labels == nil {
				s.Demand.Labels = map[string]string{}
			}
			s.Demand.Labels[k] = v
		}
	}
	if len(s.Demand.Devices) == 0 {
		s.Demand.Devices = []job.DeviceDemand{{Count: 1, Bytes: d.DeviceBytes}}
	}
	bad = append(bad, retryOf(in.GetRetryPolicy(), &s)...)
	for name := range in.GetCommand().GetEnv() {
		if strings.HasPrefix(name, "TRAINYARD_") {
			bad = append(bad, rpcerr.Violation{Field: fmt.Sprintf("spec.command.env[%q]", name), Description: "names that start with TRAINYARD_ belong to the agent; choose another"})
		}
	}
	sort.SliceStable(bad, func(i, k int) bool { return bad[i].Field < bad[k].Field })
	return s, priorityOf(in.GetPriorityClass()), bad, nil
}

func retryOf(p *jobv1.RetryPolicy, s *job.Spec) []rpcerr.Violation {
	budget := func(f job.Failure, n uint32) {
		if n == 0 {
			return
		}
		if s.Budgets == nil {
			s.Budgets = map[string]int{}
		}
		s.Budgets[f.String()] = int(n)
	}
	budget(job.Crash, p.GetMaxCrashes())
	budget(job.HostOOM, p.GetMaxHostOoms())
	budget(job.Network, p.GetMaxNetworkErrors())
	if p.GetMinBatchSize() > 0 {
		s.MinBatch = int(p.GetMinBatchSize())
	}
	if p.GetMinBatchSize() > 0 && s.Batch > 0 && s.MinBatch > s.Batch {
		return []rpcerr.Violation{{
			Field: "spec.retry_policy.min_batch_size", Description: fmt.Sprintf("%d is above batch_size %d; the floor of halving must not be above its start", s.MinBatch, s.Batch),
		}}
	}
	return nil
}

// refusal words everything that is wrong with a submit in one error. Demands
// that no known device could hold are a fact about the fleet and not about the
// fields; when the fields are wrong too, everything is listed together.
func refusal(bad []rpcerr.Violation, impossible []placement.Problem) error {
	var all []rpcerr.Violation
	all = append(all, bad...)
	for _, p := range impossible {
		all = append(all, rpcerr.Violation{Field: "spec.resources." + p.Path, Description: p.Text})
	}
	switch {
	case len(all) == 0:
		return nil
	case len(bad) > 0:
		return rpcerr.Invalid(all...)
	}
	return rpcerr.New(codes.FailedPrecondition, errorv1.Reason_REASON_DEMAND_IMPOSSIBLE,
		"no known host could ever hold this demand; lower it, or set wait_for_capacity to wait for a larger host").
		With("largest", impossible[0].Text).WithViolations(all)
}

func priorityOf(p jobv1.PriorityClass) job.Priority {
	switch p {
	case jobv1.PriorityClass_PRIORITY_CLASS_SEARCH:
		return job.Search
	case jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE:
		return job.Interactive
	case jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION:
		return job.Production
	case jobv1.PriorityClass_PRIORITY_CLASS_UNSPECIFIED, jobv1.PriorityClass_PRIORITY_CLASS_BATCH:
		return job.Batch
	}
	return job.Batch
}

func priorityTo(p job.Priority) jobv1.PriorityClass {
	switch p {
	case job.Search:
		return jobv1.PriorityClass_PRIORITY_CLASS_SEARCH
	case job.Interactive:
		return jobv1.PriorityClass_PRIORITY_CLASS_INTERACTIVE
	case job.Production:
		return jobv1.PriorityClass_PRIORITY_CLASS_PRODUCTION
	case job.Batch, job.PriorityUnknown:
		return jobv1.PriorityClass_PRIORITY_CLASS_BATCH
	}
	return jobv1.PriorityClass_PRIORITY_CLASS_BATCH
}
