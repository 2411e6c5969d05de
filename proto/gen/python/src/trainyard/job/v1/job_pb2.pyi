from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.job.v1 import dependency_pb2 as _dependency_pb2
from trainyard.job.v1 import training_pb2 as _training_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class PriorityClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_CLASS_UNSPECIFIED: _ClassVar[PriorityClass]
    PRIORITY_CLASS_BATCH: _ClassVar[PriorityClass]
    PRIORITY_CLASS_SEARCH: _ClassVar[PriorityClass]
    PRIORITY_CLASS_INTERACTIVE: _ClassVar[PriorityClass]
    PRIORITY_CLASS_PRODUCTION: _ClassVar[PriorityClass]

class Specialist(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SPECIALIST_UNSPECIFIED: _ClassVar[Specialist]
    SPECIALIST_BULL: _ClassVar[Specialist]
    SPECIALIST_BEAR: _ClassVar[Specialist]
    SPECIALIST_SIDEWAYS: _ClassVar[Specialist]

class Reward(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REWARD_UNSPECIFIED: _ClassVar[Reward]
    REWARD_SHARPE: _ClassVar[Reward]
    REWARD_DIFFERENTIAL_SHARPE: _ClassVar[Reward]
    REWARD_TOTAL_RETURN: _ClassVar[Reward]
    REWARD_RISK_ADJUSTED: _ClassVar[Reward]

class FailureClass(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_CLASS_UNSPECIFIED: _ClassVar[FailureClass]
    FAILURE_CLASS_DEVICE_OOM_OWN: _ClassVar[FailureClass]
    FAILURE_CLASS_DEVICE_OOM_NEIGHBOUR: _ClassVar[FailureClass]
    FAILURE_CLASS_HOST_OOM: _ClassVar[FailureClass]
    FAILURE_CLASS_CRASH: _ClassVar[FailureClass]
    FAILURE_CLASS_NETWORK: _ClassVar[FailureClass]
    FAILURE_CLASS_DATA_UNAVAILABLE: _ClassVar[FailureClass]
    FAILURE_CLASS_AGENT_LOST: _ClassVar[FailureClass]
    FAILURE_CLASS_PREEMPTED: _ClassVar[FailureClass]
    FAILURE_CLASS_DRAINED: _ClassVar[FailureClass]
    FAILURE_CLASS_DIVERGED: _ClassVar[FailureClass]
    FAILURE_CLASS_BAD_CONFIGURATION: _ClassVar[FailureClass]
    FAILURE_CLASS_STALLED: _ClassVar[FailureClass]
    FAILURE_CLASS_TIME_LIMIT: _ClassVar[FailureClass]

class Topology(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TOPOLOGY_UNSPECIFIED: _ClassVar[Topology]
    TOPOLOGY_SAME_HOST: _ClassVar[Topology]
    TOPOLOGY_LINK_GROUP: _ClassVar[Topology]
    TOPOLOGY_PACKED_HOSTS: _ClassVar[Topology]
    TOPOLOGY_SPREAD_HOSTS: _ClassVar[Topology]
PRIORITY_CLASS_UNSPECIFIED: PriorityClass
PRIORITY_CLASS_BATCH: PriorityClass
PRIORITY_CLASS_SEARCH: PriorityClass
PRIORITY_CLASS_INTERACTIVE: PriorityClass
PRIORITY_CLASS_PRODUCTION: PriorityClass
SPECIALIST_UNSPECIFIED: Specialist
SPECIALIST_BULL: Specialist
SPECIALIST_BEAR: Specialist
SPECIALIST_SIDEWAYS: Specialist
REWARD_UNSPECIFIED: Reward
REWARD_SHARPE: Reward
REWARD_DIFFERENTIAL_SHARPE: Reward
REWARD_TOTAL_RETURN: Reward
REWARD_RISK_ADJUSTED: Reward
FAILURE_CLASS_UNSPECIFIED: FailureClass
FAILURE_CLASS_DEVICE_OOM_OWN: FailureClass
FAILURE_CLASS_DEVICE_OOM_NEIGHBOUR: FailureClass
FAILURE_CLASS_HOST_OOM: FailureClass
FAILURE_CLASS_CRASH: FailureClass
FAILURE_CLASS_NETWORK: FailureClass
FAILURE_CLASS_DATA_UNAVAILABLE: FailureClass
FAILURE_CLASS_AGENT_LOST: FailureClass
FAILURE_CLASS_PREEMPTED: FailureClass
FAILURE_CLASS_DRAINED: FailureClass
FAILURE_CLASS_DIVERGED: FailureClass
FAILURE_CLASS_BAD_CONFIGURATION: FailureClass
FAILURE_CLASS_STALLED: FailureClass
FAILURE_CLASS_TIME_LIMIT: FailureClass
TOPOLOGY_UNSPECIFIED: Topology
TOPOLOGY_SAME_HOST: Topology
TOPOLOGY_LINK_GROUP: Topology
TOPOLOGY_PACKED_HOSTS: Topology
TOPOLOGY_SPREAD_HOSTS: Topology

class DeviceDemand(_message.Message):
    __slots__ = ("count", "kind", "memory_bytes", "labels", "mig_profile", "topology", "learn_memory")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    COUNT_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MIG_PROFILE_FIELD_NUMBER: _ClassVar[int]
    TOPOLOGY_FIELD_NUMBER: _ClassVar[int]
    LEARN_MEMORY_FIELD_NUMBER: _ClassVar[int]
    count: int
    kind: str
    memory_bytes: int
    labels: _containers.ScalarMap[str, str]
    mig_profile: str
    topology: Topology
    learn_memory: bool
    def __init__(self, count: _Optional[int] = ..., kind: _Optional[str] = ..., memory_bytes: _Optional[int] = ..., labels: _Optional[_Mapping[str, str]] = ..., mig_profile: _Optional[str] = ..., topology: _Optional[_Union[Topology, str]] = ..., learn_memory: bool = ...) -> None: ...

class Resources(_message.Message):
    __slots__ = ("devices", "cpu_millis", "host_memory_bytes")
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    CPU_MILLIS_FIELD_NUMBER: _ClassVar[int]
    HOST_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    devices: _containers.RepeatedCompositeFieldContainer[DeviceDemand]
    cpu_millis: int
    host_memory_bytes: int
    def __init__(self, devices: _Optional[_Iterable[_Union[DeviceDemand, _Mapping]]] = ..., cpu_millis: _Optional[int] = ..., host_memory_bytes: _Optional[int] = ...) -> None: ...

class TradingCosts(_message.Message):
    __slots__ = ("commission_bps", "slippage_bps")
    COMMISSION_BPS_FIELD_NUMBER: _ClassVar[int]
    SLIPPAGE_BPS_FIELD_NUMBER: _ClassVar[int]
    commission_bps: float
    slippage_bps: float
    def __init__(self, commission_bps: _Optional[float] = ..., slippage_bps: _Optional[float] = ...) -> None: ...

class LearnerSpec(_message.Message):
    __slots__ = ("learning_rate", "discount", "gae_lambda", "clip_range", "entropy_coefficient", "value_coefficient", "max_gradient_norm", "environments", "rollout_steps", "update_epochs", "hidden_sizes", "temporal", "schedule", "warmup_epochs", "final_rate_share")
    class Schedule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        SCHEDULE_UNSPECIFIED: _ClassVar[LearnerSpec.Schedule]
        SCHEDULE_CONSTANT: _ClassVar[LearnerSpec.Schedule]
        SCHEDULE_LINEAR: _ClassVar[LearnerSpec.Schedule]
        SCHEDULE_COSINE: _ClassVar[LearnerSpec.Schedule]
    SCHEDULE_UNSPECIFIED: LearnerSpec.Schedule
    SCHEDULE_CONSTANT: LearnerSpec.Schedule
    SCHEDULE_LINEAR: LearnerSpec.Schedule
    SCHEDULE_COSINE: LearnerSpec.Schedule
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    DISCOUNT_FIELD_NUMBER: _ClassVar[int]
    GAE_LAMBDA_FIELD_NUMBER: _ClassVar[int]
    CLIP_RANGE_FIELD_NUMBER: _ClassVar[int]
    ENTROPY_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    VALUE_COEFFICIENT_FIELD_NUMBER: _ClassVar[int]
    MAX_GRADIENT_NORM_FIELD_NUMBER: _ClassVar[int]
    ENVIRONMENTS_FIELD_NUMBER: _ClassVar[int]
    ROLLOUT_STEPS_FIELD_NUMBER: _ClassVar[int]
    UPDATE_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_SIZES_FIELD_NUMBER: _ClassVar[int]
    TEMPORAL_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_FIELD_NUMBER: _ClassVar[int]
    WARMUP_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    FINAL_RATE_SHARE_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    discount: float
    gae_lambda: float
    clip_range: float
    entropy_coefficient: float
    value_coefficient: float
    max_gradient_norm: float
    environments: int
    rollout_steps: int
    update_epochs: int
    hidden_sizes: _containers.RepeatedScalarFieldContainer[int]
    temporal: TemporalTrunk
    schedule: LearnerSpec.Schedule
    warmup_epochs: int
    final_rate_share: float
    def __init__(self, learning_rate: _Optional[float] = ..., discount: _Optional[float] = ..., gae_lambda: _Optional[float] = ..., clip_range: _Optional[float] = ..., entropy_coefficient: _Optional[float] = ..., value_coefficient: _Optional[float] = ..., max_gradient_norm: _Optional[float] = ..., environments: _Optional[int] = ..., rollout_steps: _Optional[int] = ..., update_epochs: _Optional[int] = ..., hidden_sizes: _Optional[_Iterable[int]] = ..., temporal: _Optional[_Union[TemporalTrunk, _Mapping]] = ..., schedule: _Optional[_Union[LearnerSpec.Schedule, str]] = ..., warmup_epochs: _Optional[int] = ..., final_rate_share: _Optional[float] = ...) -> None: ...

class TemporalTrunk(_message.Message):
    __slots__ = ("bars", "width", "stride", "channels")
    BARS_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    bars: int
    width: int
    stride: int
    channels: int
    def __init__(self, bars: _Optional[int] = ..., width: _Optional[int] = ..., stride: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class WarmStart(_message.Message):
    __slots__ = ("checkpoint_id", "freeze_trunk")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    FREEZE_TRUNK_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    freeze_trunk: bool
    def __init__(self, checkpoint_id: _Optional[str] = ..., freeze_trunk: bool = ...) -> None: ...

class NativeSpec(_message.Message):
    __slots__ = ("specialist", "symbol", "timeframe", "reward", "seed", "max_epochs", "patience", "costs", "learner", "warm_start", "split", "reward_parameters")
    SPECIALIST_FIELD_NUMBER: _ClassVar[int]
    SYMBOL_FIELD_NUMBER: _ClassVar[int]
    TIMEFRAME_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    MAX_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    PATIENCE_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    LEARNER_FIELD_NUMBER: _ClassVar[int]
    WARM_START_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    REWARD_PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    specialist: Specialist
    symbol: str
    timeframe: str
    reward: Reward
    seed: int
    max_epochs: int
    patience: int
    costs: TradingCosts
    learner: LearnerSpec
    warm_start: WarmStart
    split: _training_pb2.WalkForward
    reward_parameters: _training_pb2.RewardParameters
    def __init__(self, specialist: _Optional[_Union[Specialist, str]] = ..., symbol: _Optional[str] = ..., timeframe: _Optional[str] = ..., reward: _Optional[_Union[Reward, str]] = ..., seed: _Optional[int] = ..., max_epochs: _Optional[int] = ..., patience: _Optional[int] = ..., costs: _Optional[_Union[TradingCosts, _Mapping]] = ..., learner: _Optional[_Union[LearnerSpec, _Mapping]] = ..., warm_start: _Optional[_Union[WarmStart, _Mapping]] = ..., split: _Optional[_Union[_training_pb2.WalkForward, _Mapping]] = ..., reward_parameters: _Optional[_Union[_training_pb2.RewardParameters, _Mapping]] = ...) -> None: ...

class CommandSpec(_message.Message):
    __slots__ = ("argv", "env", "working_directory")
    class EnvEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ARGV_FIELD_NUMBER: _ClassVar[int]
    ENV_FIELD_NUMBER: _ClassVar[int]
    WORKING_DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    argv: _containers.RepeatedScalarFieldContainer[str]
    env: _containers.ScalarMap[str, str]
    working_directory: str
    def __init__(self, argv: _Optional[_Iterable[str]] = ..., env: _Optional[_Mapping[str, str]] = ..., working_directory: _Optional[str] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_crashes", "max_host_ooms", "max_network_errors", "min_batch_size")
    MAX_CRASHES_FIELD_NUMBER: _ClassVar[int]
    MAX_HOST_OOMS_FIELD_NUMBER: _ClassVar[int]
    MAX_NETWORK_ERRORS_FIELD_NUMBER: _ClassVar[int]
    MIN_BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    max_crashes: int
    max_host_ooms: int
    max_network_errors: int
    min_batch_size: int
    def __init__(self, max_crashes: _Optional[int] = ..., max_host_ooms: _Optional[int] = ..., max_network_errors: _Optional[int] = ..., min_batch_size: _Optional[int] = ...) -> None: ...

class JobSpec(_message.Message):
    __slots__ = ("display_name", "experiment", "tenant", "priority_class", "resources", "native", "command", "batch_size", "gradient_accumulation", "model_name", "time_limit", "stall_limit", "retry_policy", "wait_for_capacity", "labels", "after", "deadline", "expected_duration")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    NATIVE_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    TIME_LIMIT_FIELD_NUMBER: _ClassVar[int]
    STALL_LIMIT_FIELD_NUMBER: _ClassVar[int]
    RETRY_POLICY_FIELD_NUMBER: _ClassVar[int]
    WAIT_FOR_CAPACITY_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_DURATION_FIELD_NUMBER: _ClassVar[int]
    display_name: str
    experiment: str
    tenant: str
    priority_class: PriorityClass
    resources: Resources
    native: NativeSpec
    command: CommandSpec
    batch_size: int
    gradient_accumulation: int
    model_name: str
    time_limit: _duration_pb2.Duration
    stall_limit: _duration_pb2.Duration
    retry_policy: RetryPolicy
    wait_for_capacity: bool
    labels: _containers.ScalarMap[str, str]
    after: _containers.RepeatedCompositeFieldContainer[_dependency_pb2.Dependency]
    deadline: _timestamp_pb2.Timestamp
    expected_duration: _duration_pb2.Duration
    def __init__(self, display_name: _Optional[str] = ..., experiment: _Optional[str] = ..., tenant: _Optional[str] = ..., priority_class: _Optional[_Union[PriorityClass, str]] = ..., resources: _Optional[_Union[Resources, _Mapping]] = ..., native: _Optional[_Union[NativeSpec, _Mapping]] = ..., command: _Optional[_Union[CommandSpec, _Mapping]] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., model_name: _Optional[str] = ..., time_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., stall_limit: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., retry_policy: _Optional[_Union[RetryPolicy, _Mapping]] = ..., wait_for_capacity: bool = ..., labels: _Optional[_Mapping[str, str]] = ..., after: _Optional[_Iterable[_Union[_dependency_pb2.Dependency, _Mapping]]] = ..., deadline: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., expected_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("epoch", "total_epochs", "step", "reward", "objective", "steps_per_second", "remaining", "peak_device_memory_bytes", "checkpoint_step", "checkpoint_id", "report_time")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    TOTAL_EPOCHS_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    STEPS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    REMAINING_FIELD_NUMBER: _ClassVar[int]
    PEAK_DEVICE_MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    total_epochs: int
    step: int
    reward: float
    objective: float
    steps_per_second: float
    remaining: _duration_pb2.Duration
    peak_device_memory_bytes: int
    checkpoint_step: int
    checkpoint_id: str
    report_time: _timestamp_pb2.Timestamp
    def __init__(self, epoch: _Optional[int] = ..., total_epochs: _Optional[int] = ..., step: _Optional[int] = ..., reward: _Optional[float] = ..., objective: _Optional[float] = ..., steps_per_second: _Optional[float] = ..., remaining: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., peak_device_memory_bytes: _Optional[int] = ..., checkpoint_step: _Optional[int] = ..., checkpoint_id: _Optional[str] = ..., report_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("exit_code", "signal", "message", "problems", "stderr_tail", "memory_samples_bytes")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    STDERR_TAIL_FIELD_NUMBER: _ClassVar[int]
    MEMORY_SAMPLES_BYTES_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    signal: str
    message: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    stderr_tail: str
    memory_samples_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, exit_code: _Optional[int] = ..., signal: _Optional[str] = ..., message: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ..., stderr_tail: _Optional[str] = ..., memory_samples_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class Attempt(_message.Message):
    __slots__ = ("attempt", "fence", "state", "agent_name", "device_ids", "batch_size", "gradient_accumulation", "restored_checkpoint_id", "failure_class", "evidence", "create_time", "start_time", "end_time", "isolation", "members")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Attempt.State]
        STATE_STARTING: _ClassVar[Attempt.State]
        STATE_RUNNING: _ClassVar[Attempt.State]
        STATE_STOPPING: _ClassVar[Attempt.State]
        STATE_ENDED: _ClassVar[Attempt.State]
    STATE_UNSPECIFIED: Attempt.State
    STATE_STARTING: Attempt.State
    STATE_RUNNING: Attempt.State
    STATE_STOPPING: Attempt.State
    STATE_ENDED: Attempt.State
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    RESTORED_CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    ISOLATION_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    fence: int
    state: Attempt.State
    agent_name: str
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    batch_size: int
    gradient_accumulation: int
    restored_checkpoint_id: str
    failure_class: FailureClass
    evidence: Evidence
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    isolation: str
    members: _containers.RepeatedCompositeFieldContainer[GangMember]
    def __init__(self, attempt: _Optional[int] = ..., fence: _Optional[int] = ..., state: _Optional[_Union[Attempt.State, str]] = ..., agent_name: _Optional[str] = ..., device_ids: _Optional[_Iterable[str]] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., restored_checkpoint_id: _Optional[str] = ..., failure_class: _Optional[_Union[FailureClass, str]] = ..., evidence: _Optional[_Union[Evidence, _Mapping]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., isolation: _Optional[str] = ..., members: _Optional[_Iterable[_Union[GangMember, _Mapping]]] = ...) -> None: ...

class GangMember(_message.Message):
    __slots__ = ("agent_name", "device_ids", "node_rank", "ended")
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    NODE_RANK_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    agent_name: str
    device_ids: _containers.RepeatedScalarFieldContainer[str]
    node_rank: int
    ended: bool
    def __init__(self, agent_name: _Optional[str] = ..., device_ids: _Optional[_Iterable[str]] = ..., node_rank: _Optional[int] = ..., ended: bool = ...) -> None: ...

class Job(_message.Message):
    __slots__ = ("job_id", "spec", "state", "state_reason", "progress", "attempts", "batch_size", "gradient_accumulation", "submitter", "create_time", "start_time", "end_time", "traceparent", "etag", "revision", "not_before", "warnings", "array_id", "array_index", "graph_id", "graph_node", "schedule_id", "dependencies", "poison")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Job.State]
        STATE_QUEUED: _ClassVar[Job.State]
        STATE_STARTING: _ClassVar[Job.State]
        STATE_RUNNING: _ClassVar[Job.State]
        STATE_STOPPING: _ClassVar[Job.State]
        STATE_PAUSED: _ClassVar[Job.State]
        STATE_SUCCEEDED: _ClassVar[Job.State]
        STATE_FAILED: _ClassVar[Job.State]
        STATE_CANCELLED: _ClassVar[Job.State]
    STATE_UNSPECIFIED: Job.State
    STATE_QUEUED: Job.State
    STATE_STARTING: Job.State
    STATE_RUNNING: Job.State
    STATE_STOPPING: Job.State
    STATE_PAUSED: Job.State
    STATE_SUCCEEDED: Job.State
    STATE_FAILED: Job.State
    STATE_CANCELLED: Job.State
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_REASON_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    START_TIME_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NOT_BEFORE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    ARRAY_INDEX_FIELD_NUMBER: _ClassVar[int]
    GRAPH_ID_FIELD_NUMBER: _ClassVar[int]
    GRAPH_NODE_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    DEPENDENCIES_FIELD_NUMBER: _ClassVar[int]
    POISON_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    spec: JobSpec
    state: Job.State
    state_reason: str
    progress: Progress
    attempts: _containers.RepeatedCompositeFieldContainer[Attempt]
    batch_size: int
    gradient_accumulation: int
    submitter: str
    create_time: _timestamp_pb2.Timestamp
    start_time: _timestamp_pb2.Timestamp
    end_time: _timestamp_pb2.Timestamp
    traceparent: str
    etag: str
    revision: int
    not_before: _timestamp_pb2.Timestamp
    warnings: _containers.RepeatedScalarFieldContainer[str]
    array_id: str
    array_index: int
    graph_id: str
    graph_node: str
    schedule_id: str
    dependencies: _containers.RepeatedCompositeFieldContainer[_dependency_pb2.DependencyState]
    poison: bool
    def __init__(self, job_id: _Optional[str] = ..., spec: _Optional[_Union[JobSpec, _Mapping]] = ..., state: _Optional[_Union[Job.State, str]] = ..., state_reason: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., attempts: _Optional[_Iterable[_Union[Attempt, _Mapping]]] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., submitter: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ..., etag: _Optional[str] = ..., revision: _Optional[int] = ..., not_before: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., warnings: _Optional[_Iterable[str]] = ..., array_id: _Optional[str] = ..., array_index: _Optional[int] = ..., graph_id: _Optional[str] = ..., graph_node: _Optional[str] = ..., schedule_id: _Optional[str] = ..., dependencies: _Optional[_Iterable[_Union[_dependency_pb2.DependencyState, _Mapping]]] = ..., poison: bool = ...) -> None: ...
