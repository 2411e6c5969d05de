package jobapi

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/ultrathink-pilot/trainyard/libs/rpcerr"
	jobv1 "github.com/ultrathink-pilot/trainyard/proto/gen/go/trainyard/job/v1"
	"github.com/ultrathink-pilot/trainyard/services/scheduler/internal/job"
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
// path is where the specification is in the request.
func specOf(path string, in *jobv1.JobSpec, d Defaults) (job.Spec, job.Priority, []rpcerr.Violation, error) {
	var bad []rpcerr.Violation
	payload, err := proto.Marshal(in)
	if err != nil {
		return job.Spec{}, 0, nil, rpcerr.Internal(err)
	}
	s := job.Spec{
		Name: in.GetDisplayName(), Experiment: in.GetExperiment(), Tenant: in.GetTenant(), Payload: payload, Expect: max(in.GetExpectedDuration().AsDuration(), 0),
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
	if s.Kin, err = kinOf(in); err != nil {
		return job.Spec{}, 0, nil, rpcerr.Internal(err)
	}
	if in.GetStallLimit() != nil {
		s.StallLimit = in.GetStallLimit().AsDuration()
	}
	if in.GetDeadline() != nil {
		if s.Deadline = in.GetDeadline().AsTime(); !in.GetDeadline().IsValid() || s.Deadline.Before(time.Now()) {
			bad = append(bad, rpcerr.Violation{Field: path + ".deadline", Description: "is not in the future"})
		}
	}
	r := in.GetResources()
	if r.GetCpuMillis() > 0 {
		s.Demand.CPUMillis = r.GetCpuMillis()
	}
	if r.GetHostMemoryBytes() > 0 {
		s.Demand.HostBytes = r.GetHostMemoryBytes()
	}
	for i, dev := range r.GetDevices() {
		s.Demand.Devices = append(s.Demand.Devices, job.DeviceDemand{
			Count: max(int(dev.GetCount()), 1), Kind: dev.GetKind(), Bytes: dev.GetMemoryBytes(), Profile: dev.GetMigProfile(), Topology: topologyOf(dev.GetTopology()), Learn: dev.GetLearnMemory(),
		})
		if kind := dev.GetKind(); kind != "" && slices.ContainsFunc(strings.Split(kind, "|"), func(k string) bool { return k == "" || strings.TrimSpace(k) != k }) {
			bad = append(bad, rpcerr.Violation{Field: fmt.Sprintf("%s.resources.devices[%d].kind", path, i), Description: fmt.Sprintf("%q has an empty name or spaces around a bar: write A100|H100", kind)})
		}
		if dev.GetLearnMemory() && dev.GetMemoryBytes() > 0 {
			bad = append(bad, rpcerr.Violation{Field: fmt.Sprintf("%s.resources.devices[%d].learn_memory", path, i), Description: "contradicts memory_bytes: set one of them"})
		}
		keys := make([]string, 0, len(dev.GetLabels()))
		for k := range dev.GetLabels() {
			keys = append(keys, k)
		}
		sort.Strings(keys)
		for _, k := range keys {
			v := dev.GetLabels()[k]
			if was, ok := s.Demand.Labels[k]; ok && was != v {
				bad = append(bad, rpcerr.Violation{
					Field:       fmt.Sprintf("%s.resources.devices[%d].labels[%q]", path, i, k),
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
		s.Demand.Devices = []job.DeviceDemand{{Count: 1, Bytes: d.DeviceBytes, Learn: true}}
	}
	bad = append(bad, retryOf(path, in.GetRetryPolicy(), &s)...)
	for name := range in.GetCommand().GetEnv() {
		if strings.HasPrefix(name, "TRAINYARD_") {
			bad = append(bad, rpcerr.Violation{Field: fmt.Sprintf("%s.command.env[%q]", path, name), Description: "names that start with TRAINYARD_ belong to the agent; choose another"})
		}
	}
	sort.SliceStable(bad, func(i, k int) bool { return bad[i].Field < bad[k].Field })
	return s, priorityOf(in.GetPriorityClass()), bad, nil
}

// kinOf names the runs that are alike: the same specialist and learner, or the
// same command of the same experiment but for its numbers. Seeds and data differ
// between them.
func kinOf(in *jobv1.JobSpec) (string, error) {
	h := sha256.New()
	if n := in.GetNative(); n != nil {
		learner, err := proto.MarshalOptions{Deterministic: true}.Marshal(n.GetLearner())
		if err != nil {
			return "", err
		}
		_, _ = h.Write(learner)
		return fmt.Sprintf("native/%s/%x", strings.ToLower(strings.TrimPrefix(n.GetSpecialist().String(), "SPECIALIST_")), h.Sum(nil)[:8]), nil
	}
	_, _ = fmt.Fprintf(h, "%s\x00", in.GetExperiment())
	for _, arg := range in.GetCommand().GetArgv() {
		_, _ = fmt.Fprintf(h, "%s\x00", numberless(arg))
	}
	return fmt.Sprintf("command/%x", h.Sum(nil)[:8]), nil
}

// numberless is an argument without its value, where that is a number: learning rates and
// seeds differ within a search. Where one does change the memory, as a layer's width does,
// the wider run teaches the next.
func numberless(arg string) string {
	name, value, ok := strings.Cut(arg, "=")
	if !ok {
		name, value = "", arg
	}
	if _, err := strconv.ParseFloat(value, 64); err == nil {
		return name + "=#"
	}
	return arg
}

func retryOf(path string, p *jobv1.RetryPolicy, s *job.Spec) []rpcerr.Violation {
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
			Field: path + ".retry_policy.min_batch_size", Description: fmt.Sprintf("%d is above batch_size %d; the floor of halving must not be above its start", s.MinBatch, s.Batch),
		}}
	}
	return nil
}

func topologyOf(t jobv1.Topology) job.Topology {
	switch t {
	case jobv1.Topology_TOPOLOGY_LINK_GROUP:
		return job.SameLink
	case jobv1.Topology_TOPOLOGY_PACKED_HOSTS:
		return job.PackedHosts
	case jobv1.Topology_TOPOLOGY_SPREAD_HOSTS:
		return job.SpreadHosts
	case jobv1.Topology_TOPOLOGY_UNSPECIFIED, jobv1.Topology_TOPOLOGY_SAME_HOST:
	}
	return job.SameHost
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
