from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.job.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Isolation(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ISOLATION_UNSPECIFIED: _ClassVar[Isolation]
    ISOLATION_WATCHED: _ClassVar[Isolation]
    ISOLATION_MPS: _ClassVar[Isolation]
    ISOLATION_CGROUP: _ClassVar[Isolation]
    ISOLATION_MIG: _ClassVar[Isolation]
ISOLATION_UNSPECIFIED: Isolation
ISOLATION_WATCHED: Isolation
ISOLATION_MPS: Isolation
ISOLATION_CGROUP: Isolation
ISOLATION_MIG: Isolation

class Device(_message.Message):
    __slots__ = ("device_id", "kind", "memory_bytes", "memory_used_bytes", "headroom_bytes", "process_overhead_bytes", "healthy", "health_reason", "utilization", "isolation", "link_group", "parent_device_id", "mig_profile", "numa_node")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEADROOM_BYTES_FIELD_NUMBER: _ClassVar[int]
    PROCESS_OVERHEAD_BYTES_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REASON_FIELD_NUMBER: _ClassVar[int]
    UTILIZATION_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    LINK_GROUP_FIELD_NUMBER: _ClassVar[int]
    PARENT_DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    MIG_PROFILE_FIELD_NUMBER: _ClassVar[int]
    NUMA_NODE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    kind: str
    memory_bytes: int
    memory_used_bytes: int
    headroom_bytes: int
    process_overhead_bytes: int
    healthy: bool
    health_reason: str
    utilization: float
    isolation: Isolation
    link_group: str
    parent_device_id: str
    mig_profile: str
    numa_node: int
    def __init__(self, device_id: _Optional[str] = ..., kind: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., memory_used_bytes: _Optional[int] = ..., headroom_bytes: _Optional[int] = ..., process_overhead_bytes: _Optional[int] = ..., healthy: bool = ..., health_reason: _Optional[str] = ..., utilization: _Optional[float] = ..., isolation: _Optional[_Union[Isolation, str]] = ..., link_group: _Optional[str] = ..., parent_device_id: _Optional[str] = ..., mig_profile: _Optional[str] = ..., numa_node: _Optional[int] = ...) -> None: ...

class HeldLease(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "phase", "progress", "isolation", "start_time", "data_outage_since", "last_step_time")
    class Phase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        PHASE_UNSPECIFIED: _ClassVar[HeldLease.Phase]
        PHASE_STARTING: _ClassVar[HeldLease.Phase]
        PHASE_RUNNING: _ClassVar[HeldLease.Phase]
        PHASE_STOPPING: _ClassVar[HeldLease.Phase]
    PHASE_UNSPECIFIED: HeldLease.Phase
    PHASE_STARTING: HeldLease.Phase
    PHASE_RUNNING: HeldLease.Phase
    PHASE_STOPPING: HeldLease.Phase
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    DATA_OUTAGE_SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_STEP_TIME_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    phase: HeldLease.Phase
    progress: _job_pb2.Progress
    isolation: Isolation
    start_time: _timestamp_pb2.Timestamp
    data_outage_since: _timestamp_pb2.Timestamp
    last_step_time: _timestamp_pb2.Timestamp
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., phase: _Optional[_Union[HeldLease.Phase, str]] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., isolation: _Optional[_Union[Isolation, str]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., data_outage_since: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_step_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Exit(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "outcome", "failure_class", "evidence", "progress", "end_time")
    class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OUTCOME_UNSPECIFIED: _ClassVar[Exit.Outcome]
        OUTCOME_SUCCEEDED: _ClassVar[Exit.Outcome]
        OUTCOME_FAILED: _ClassVar[Exit.Outcome]
        OUTCOME_STOPPED: _ClassVar[Exit.Outcome]
    OUTCOME_UNSPECIFIED: Exit.Outcome
    OUTCOME_SUCCEEDED: Exit.Outcome
    OUTCOME_FAILED: Exit.Outcome
    OUTCOME_STOPPED: Exit.Outcome
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    outcome: Exit.Outcome
    failure_class: _job_pb2.FailureClass
    evidence: _job_pb2.Evidence
    progress: _job_pb2.Progress
    end_time: _timestamp_pb2.Timestamp
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., outcome: _Optional[_Union[Exit.Outcome, str]] = ..., failure_class: _Optional[_Union[_job_pb2.FailureClass, str]] = ..., evidence: _Optional[_Union[_job_pb2.Evidence, _Mapping]] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class AgentReport(_message.Message):
    __slots__ = ("agent_name", "incarnation", "devices", "cpu_millis", "host_memory_bytes", "labels", "leases", "exits", "data_service_reachable", "registry_reachable", "agent_time", "version", "address")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    DATA_SERVICE_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    REGISTRY_REACHABLE_FIELD_NUMBER: _ClassVar[int]
    AGENT_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    agent_name: str
    incarnation: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    cpu_millis: int
    host_memory_bytes: int
    labels: _containers.ScalarMap[str, str]
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    exits: _containers.RepeatedCompositeFieldContainer[Exit]
    data_service_reachable: bool
    registry_reachable: bool
    agent_time: _timestamp_pb2.Timestamp
    version: str
    address: str
    def __init__(self, agent_name: _Optional[str] = ..., incarnation: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., cpu_millis: _Optional[int] = ..., host_memory_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ..., exits: _Optional[_Iterable[_Union[Exit, _Mapping]]] = ..., data_service_reachable: bool = ..., registry_reachable: bool = ..., agent_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...

class Rendezvous(_message.Message):
    __slots__ = ("address", "port", "node_rank", "node_count", "processes")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    NODE_RANK_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    node_rank: int
    node_count: int
    processes: int
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., node_rank: _Optional[int] = ..., node_count: _Optional[int] = ..., processes: _Optional[int] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "spec", "device_ids", "reserved_bytes", "batch_size", "gradient_accumulation", "resume", "traceparent", "learning_rate_scale", "cpu_millis", "host_memory_bytes", "rendezvous")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_SCALE_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    RENDEZVOUS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    spec: _job_pb2.JobSpec
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    reserved_bytes: _containers.RepeatedScalarFieldContainer[int]
    batch_size: int
    gradient_accumulation: int
    resume: bool
    traceparent: str
    learning_rate_scale: float
    cpu_millis: int
    host_memory_bytes: int
    rendezvous: Rendezvous
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., spec: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., device_ids: _Optional[_Iterable[str]] = ..., reserved_bytes: _Optional[_Iterable[int]] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., resume: bool = ..., traceparent: _Optional[str] = ..., learning_rate_scale: _Optional[float] = ..., cpu_millis: _Optional[int] = ..., host_memory_bytes: _Optional[int] = ..., rendezvous: _Optional[_Union[Rendezvous, _Mapping]] = ...) -> None: ...

class StopOrder(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "reason", "grace")
    class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REASON_UNSPECIFIED: _ClassVar[StopOrder.Reason]
        REASON_CANCELLED: _ClassVar[StopOrder.Reason]
        REASON_PAUSED: _ClassVar[StopOrder.Reason]
        REASON_PREEMPTED: _ClassVar[StopOrder.Reason]
        REASON_DRAINED: _ClassVar[StopOrder.Reason]
        REASON_FENCED: _ClassVar[StopOrder.Reason]
        REASON_TIME_LIMIT: _ClassVar[StopOrder.Reason]
        REASON_STALLED: _ClassVar[StopOrder.Reason]
        REASON_DATA_UNAVAILABLE: _ClassVar[StopOrder.Reason]
        REASON_GANG_ENDED: _ClassVar[StopOrder.Reason]
    REASON_UNSPECIFIED: StopOrder.Reason
    REASON_CANCELLED: StopOrder.Reason
    REASON_PAUSED: StopOrder.Reason
    REASON_PREEMPTED: StopOrder.Reason
    REASON_DRAINED: StopOrder.Reason
    REASON_FENCED: StopOrder.Reason
    REASON_TIME_LIMIT: StopOrder.Reason
    REASON_STALLED: StopOrder.Reason
    REASON_DATA_UNAVAILABLE: StopOrder.Reason
    REASON_GANG_ENDED: StopOrder.Reason
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    reason: StopOrder.Reason
    grace: _duration_pb2.Duration
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., reason: _Optional[_Union[StopOrder.Reason, str]] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExitKey(_message.Message):
    __slots__ = ("job_id", "attempt", "fence")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ...) -> None: ...

class Agent(_message.Message):
    __slots__ = ("agent_name", "state", "state_reason", "devices", "leases", "reserved_bytes", "cpu_millis", "host_memory_bytes", "labels", "last_contact_time", "version", "address")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Agent.State]
        STATE_READY: _ClassVar[Agent.State]
        STATE_CORDONED: _ClassVar[Agent.State]
        STATE_DRAINING: _ClassVar[Agent.State]
        STATE_LOST: _ClassVar[Agent.State]
    STATE_UNSPECIFIED: Agent.State
    STATE_READY: Agent.State
    STATE_CORDONED: Agent.State
    STATE_DRAINING: Agent.State
    STATE_LOST: Agent.State
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    LAST_CONTACT_TIME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    agent_name: str
    state: Agent.State
    state_reason: str
    devices: _containers.RepeatedCompositeFieldContainer[Device]
    leases: _containers.RepeatedCompositeFieldContainer[HeldLease]
    reserved_bytes: _containers.RepeatedScalarFieldContainer[int]
    cpu_millis: int
    host_memory_bytes: int
    labels: _containers.ScalarMap[str, str]
    last_contact_time: _timestamp_pb2.Timestamp
    version: str
    address: str
    def __init__(self, agent_name: _Optional[str] = ..., state: _Optional[_Union[Agent.State, str]] = ..., state_reason: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[Device, _Mapping]]] = ..., leases: _Optional[_Iterable[_Union[HeldLease, _Mapping]]] = ..., reserved_bytes: _Optional[_Iterable[int]] = ..., cpu_millis: _Optional[int] = ..., host_memory_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., last_contact_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., version: _Optional[str] = ..., address: _Optional[str] = ...) -> None: ...
