from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.fleet.v1 import agent_pb2 as _agent_pb2
from trainyard.job.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainRequest(_message.Message):
    __slots__ = ("sequence", "traceparent", "open", "metrics", "params", "progress", "checkpoint", "artifact", "out_of_memory", "data_outage", "finished")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_MEMORY_FIELD_NUMBER: _ClassVar[int]
    DATA_OUTAGE_FIELD_NUMBER: _ClassVar[int]
    FINISHED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    traceparent: str
    open: Open
    metrics: MetricBatch
    params: ParamBatch
    progress: _job_pb2.Progress
    checkpoint: CheckpointReady
    artifact: ArtifactReady
    out_of_memory: OutOfMemory
    data_outage: DataOutage
    finished: Finished
    def __init__(self, sequence: _Optional[int] = ..., traceparent: _Optional[str] = ..., open: _Optional[_Union[Open, _Mapping]] = ..., metrics: _Optional[_Union[MetricBatch, _Mapping]] = ..., params: _Optional[_Union[ParamBatch, _Mapping]] = ..., progress: _Optional[_Union[_job_pb2.Progress, _Mapping]] = ..., checkpoint: _Optional[_Union[CheckpointReady, _Mapping]] = ..., artifact: _Optional[_Union[ArtifactReady, _Mapping]] = ..., out_of_memory: _Optional[_Union[OutOfMemory, _Mapping]] = ..., data_outage: _Optional[_Union[DataOutage, _Mapping]] = ..., finished: _Optional[_Union[Finished, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("token", "last_sequence", "pid")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    last_sequence: int
    pid: int
    def __init__(self, token: _Optional[bytes] = ..., last_sequence: _Optional[int] = ..., pid: _Optional[int] = ...) -> None: ...

class MetricPoint(_message.Message):
    __slots__ = ("key", "value", "step", "time")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: float
    step: int
    time: _timestamp_pb2.Timestamp
    def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ..., step: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class MetricBatch(_message.Message):
    __slots__ = ("points",)
    POINTS_FIELD_NUMBER: _ClassVar[int]
    points: _containers.RepeatedCompositeFieldContainer[MetricPoint]
    def __init__(self, points: _Optional[_Iterable[_Union[MetricPoint, _Mapping]]] = ...) -> None: ...

class ParamBatch(_message.Message):
    __slots__ = ("params",)
    class ParamsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    params: _containers.ScalarMap[str, str]
    def __init__(self, params: _Optional[_Mapping[str, str]] = ...) -> None: ...

class StagedFile(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: bytes
    size_bytes: int
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class CheckpointReady(_message.Message):
    __slots__ = ("step", "files", "metrics", "resumable", "feature_schema", "data_version", "evaluation_window", "trades")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    STEP_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    RESUMABLE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    TRADES_FIELD_NUMBER: _ClassVar[int]
    step: int
    files: _containers.RepeatedCompositeFieldContainer[StagedFile]
    metrics: _containers.ScalarMap[str, float]
    resumable: bool
    feature_schema: str
    data_version: str
    evaluation_window: str
    trades: int
    def __init__(self, step: _Optional[int] = ..., files: _Optional[_Iterable[_Union[StagedFile, _Mapping]]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., resumable: bool = ..., feature_schema: _Optional[str] = ..., data_version: _Optional[str] = ..., evaluation_window: _Optional[str] = ..., trades: _Optional[int] = ...) -> None: ...

class ArtifactReady(_message.Message):
    __slots__ = ("file", "content_type")
    FILE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    file: StagedFile
    content_type: str
    def __init__(self, file: _Optional[_Union[StagedFile, _Mapping]] = ..., content_type: _Optional[str] = ...) -> None: ...

class OutOfMemory(_message.Message):
    __slots__ = ("device_id", "requested_bytes", "allocated_bytes", "message")
    DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
    REQUESTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    ALLOCATED_BYTES_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    device_id: str
    requested_bytes: int
    allocated_bytes: int
    message: str
    def __init__(self, device_id: _Optional[str] = ..., requested_bytes: _Optional[int] = ..., allocated_bytes: _Optional[int] = ..., message: _Optional[str] = ...) -> None: ...

class DataOutage(_message.Message):
    __slots__ = ("active", "message")
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    active: bool
    message: str
    def __init__(self, active: bool = ..., message: _Optional[str] = ...) -> None: ...

class Finished(_message.Message):
    __slots__ = ("outcome", "failure_class", "message", "problems")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    outcome: _agent_pb2.Exit.Outcome
    failure_class: _job_pb2.FailureClass
    message: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, outcome: _Optional[_Union[_agent_pb2.Exit.Outcome, str]] = ..., failure_class: _Optional[_Union[_job_pb2.FailureClass, str]] = ..., message: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class TrainResponse(_message.Message):
    __slots__ = ("opened", "ack", "stop", "checkpoint_now", "pause", "resume", "checkpoint_committed", "checkpoint_rejected")
    OPENED_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_NOW_FIELD_NUMBER: _ClassVar[int]
    PAUSE_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_COMMITTED_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_REJECTED_FIELD_NUMBER: _ClassVar[int]
    opened: Opened
    ack: Ack
    stop: Stop
    checkpoint_now: CheckpointNow
    pause: Pause
    resume: Resume
    checkpoint_committed: CheckpointCommitted
    checkpoint_rejected: CheckpointRejected
    def __init__(self, opened: _Optional[_Union[Opened, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., stop: _Optional[_Union[Stop, _Mapping]] = ..., checkpoint_now: _Optional[_Union[CheckpointNow, _Mapping]] = ..., pause: _Optional[_Union[Pause, _Mapping]] = ..., resume: _Optional[_Union[Resume, _Mapping]] = ..., checkpoint_committed: _Optional[_Union[CheckpointCommitted, _Mapping]] = ..., checkpoint_rejected: _Optional[_Union[CheckpointRejected, _Mapping]] = ...) -> None: ...

class Opened(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "spec", "devices", "reserved_bytes", "batch_size", "gradient_accumulation", "learning_rate_scale", "data_service_url", "cache_dir", "work_dir", "restore", "acked_sequence", "threads", "orphan_timeout", "warm_start")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    RESERVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    GRADIENT_ACCUMULATION_FIELD_NUMBER: _ClassVar[int]
    LEARNING_RATE_SCALE_FIELD_NUMBER: _ClassVar[int]
    DATA_SERVICE_URL_FIELD_NUMBER: _ClassVar[int]
    CACHE_DIR_FIELD_NUMBER: _ClassVar[int]
    WORK_DIR_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    ACKED_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    WARM_START_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    spec: _job_pb2.JobSpec
    devices: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Device]
    reserved_bytes: _containers.RepeatedScalarFieldContainer[int]
    batch_size: int
    gradient_accumulation: int
    learning_rate_scale: float
    data_service_url: str
    cache_dir: str
    work_dir: str
    restore: Restore
    acked_sequence: int
    threads: int
    orphan_timeout: _duration_pb2.Duration
    warm_start: Restore
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., spec: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., devices: _Optional[_Iterable[_Union[_agent_pb2.Device, _Mapping]]] = ..., reserved_bytes: _Optional[_Iterable[int]] = ..., batch_size: _Optional[int] = ..., gradient_accumulation: _Optional[int] = ..., learning_rate_scale: _Optional[float] = ..., data_service_url: _Optional[str] = ..., cache_dir: _Optional[str] = ..., work_dir: _Optional[str] = ..., restore: _Optional[_Union[Restore, _Mapping]] = ..., acked_sequence: _Optional[int] = ..., threads: _Optional[int] = ..., orphan_timeout: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., warm_start: _Optional[_Union[Restore, _Mapping]] = ...) -> None: ...

class Restore(_message.Message):
    __slots__ = ("checkpoint_id", "step", "directory")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    step: int
    directory: str
    def __init__(self, checkpoint_id: _Optional[str] = ..., step: _Optional[int] = ..., directory: _Optional[str] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("sequence",)
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    def __init__(self, sequence: _Optional[int] = ...) -> None: ...

class Stop(_message.Message):
    __slots__ = ("reason", "grace")
    REASON_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    reason: _agent_pb2.StopOrder.Reason
    grace: _duration_pb2.Duration
    def __init__(self, reason: _Optional[_Union[_agent_pb2.StopOrder.Reason, str]] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CheckpointNow(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Pause(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Resume(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class CheckpointCommitted(_message.Message):
    __slots__ = ("step", "checkpoint_id")
    STEP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    step: int
    checkpoint_id: str
    def __init__(self, step: _Optional[int] = ..., checkpoint_id: _Optional[str] = ...) -> None: ...

class CheckpointRejected(_message.Message):
    __slots__ = ("step", "problems")
    STEP_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    step: int
    problems: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, step: _Optional[int] = ..., problems: _Optional[_Iterable[str]] = ...) -> None: ...

class PushArtifactRequest(_message.Message):
    __slots__ = ("header", "chunk", "footer")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    FOOTER_FIELD_NUMBER: _ClassVar[int]
    header: ArtifactHeader
    chunk: bytes
    footer: ArtifactFooter
    def __init__(self, header: _Optional[_Union[ArtifactHeader, _Mapping]] = ..., chunk: _Optional[bytes] = ..., footer: _Optional[_Union[ArtifactFooter, _Mapping]] = ...) -> None: ...

class ArtifactHeader(_message.Message):
    __slots__ = ("token", "size_bytes")
    TOKEN_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    token: bytes
    size_bytes: int
    def __init__(self, token: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class ArtifactFooter(_message.Message):
    __slots__ = ("sha256",)
    SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    def __init__(self, sha256: _Optional[bytes] = ...) -> None: ...

class PushArtifactResponse(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...
