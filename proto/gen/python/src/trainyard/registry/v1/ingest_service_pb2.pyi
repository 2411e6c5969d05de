from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.fleet.v1 import agent_pb2 as _agent_pb2
from trainyard.job.v1 import job_pb2 as _job_pb2
from trainyard.registry.v1 import checkpoint_pb2 as _checkpoint_pb2
from trainyard.registry.v1 import run_pb2 as _run_pb2
from trainyard.train.v1 import train_service_pb2 as _train_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class IngestRequest(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "sequence", "traceparent", "opened", "metrics", "params", "closed")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    OPENED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    sequence: int
    traceparent: str
    opened: RunOpened
    metrics: _train_service_pb2.MetricBatch
    params: _train_service_pb2.ParamBatch
    closed: RunClosed
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., sequence: _Optional[int] = ..., traceparent: _Optional[str] = ..., opened: _Optional[_Union[RunOpened, _Mapping]] = ..., metrics: _Optional[_Union[_train_service_pb2.MetricBatch, _Mapping]] = ..., params: _Optional[_Union[_train_service_pb2.ParamBatch, _Mapping]] = ..., closed: _Optional[_Union[RunClosed, _Mapping]] = ...) -> None: ...

class RunOpened(_message.Message):
    __slots__ = ("spec", "agent_name", "restored_checkpoint_id", "traceparent", "time")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    RESTORED_CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    spec: _job_pb2.JobSpec
    agent_name: str
    restored_checkpoint_id: str
    traceparent: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, spec: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., agent_name: _Optional[str] = ..., restored_checkpoint_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RunClosed(_message.Message):
    __slots__ = ("outcome", "failure_class", "message", "time")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    FAILURE_CLASS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    outcome: _agent_pb2.Exit.Outcome
    failure_class: _job_pb2.FailureClass
    message: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, outcome: _Optional[_Union[_agent_pb2.Exit.Outcome, str]] = ..., failure_class: _Optional[_Union[_job_pb2.FailureClass, str]] = ..., message: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class IngestResponse(_message.Message):
    __slots__ = ("job_id", "attempt", "fence", "sequence", "result", "reason", "message")
    class Result(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        RESULT_UNSPECIFIED: _ClassVar[IngestResponse.Result]
        RESULT_ACCEPTED: _ClassVar[IngestResponse.Result]
        RESULT_REFUSED: _ClassVar[IngestResponse.Result]
    RESULT_UNSPECIFIED: IngestResponse.Result
    RESULT_ACCEPTED: IngestResponse.Result
    RESULT_REFUSED: IngestResponse.Result
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    fence: int
    sequence: int
    result: IngestResponse.Result
    reason: str
    message: str
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., sequence: _Optional[int] = ..., result: _Optional[_Union[IngestResponse.Result, str]] = ..., reason: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class BeginCheckpointRequest(_message.Message):
    __slots__ = ("request_id", "job_id", "attempt", "fence", "step", "files")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job_id: str
    attempt: int
    fence: int
    step: int
    files: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.CheckpointFile]
    def __init__(self, request_id: _Optional[str] = ..., job_id: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., step: _Optional[int] = ..., files: _Optional[_Iterable[_Union[_checkpoint_pb2.CheckpointFile, _Mapping]]] = ...) -> None: ...

class BeginCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint_id", "uploads")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    uploads: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.TransferURL]
    def __init__(self, checkpoint_id: _Optional[str] = ..., uploads: _Optional[_Iterable[_Union[_checkpoint_pb2.TransferURL, _Mapping]]] = ...) -> None: ...

class CommitCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint_id", "fence", "metrics", "resumable", "feature_schema", "data_version", "evaluation_window", "trades", "parent_checkpoint_id", "traceparent", "code_version")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    RESUMABLE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    TRADES_FIELD_NUMBER: _ClassVar[int]
    PARENT_CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    fence: int
    metrics: _containers.ScalarMap[str, float]
    resumable: bool
    feature_schema: str
    data_version: str
    evaluation_window: str
    trades: int
    parent_checkpoint_id: str
    traceparent: str
    code_version: str
    def __init__(self, checkpoint_id: _Optional[str] = ..., fence: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., resumable: bool = ..., feature_schema: _Optional[str] = ..., data_version: _Optional[str] = ..., evaluation_window: _Optional[str] = ..., trades: _Optional[int] = ..., parent_checkpoint_id: _Optional[str] = ..., traceparent: _Optional[str] = ..., code_version: _Optional[str] = ...) -> None: ...

class CommitCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.Checkpoint
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class ResolveCheckpointRequest(_message.Message):
    __slots__ = ("job_id", "fence", "checkpoint_id")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    fence: int
    checkpoint_id: str
    def __init__(self, job_id: _Optional[str] = ..., fence: _Optional[int] = ..., checkpoint_id: _Optional[str] = ...) -> None: ...

class ResolveCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint", "downloads")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.Checkpoint
    downloads: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.TransferURL]
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ..., downloads: _Optional[_Iterable[_Union[_checkpoint_pb2.TransferURL, _Mapping]]] = ...) -> None: ...

class ReportCorruptCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint_id", "reason", "fence", "contents_sha256")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    reason: str
    fence: int
    contents_sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, checkpoint_id: _Optional[str] = ..., reason: _Optional[str] = ..., fence: _Optional[int] = ..., contents_sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ReportCorruptCheckpointResponse(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.Checkpoint
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class BeginArtifactRequest(_message.Message):
    __slots__ = ("job_id", "fence", "file")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    fence: int
    file: _checkpoint_pb2.CheckpointFile
    def __init__(self, job_id: _Optional[str] = ..., fence: _Optional[int] = ..., file: _Optional[_Union[_checkpoint_pb2.CheckpointFile, _Mapping]] = ...) -> None: ...

class BeginArtifactResponse(_message.Message):
    __slots__ = ("upload",)
    UPLOAD_FIELD_NUMBER: _ClassVar[int]
    upload: _checkpoint_pb2.TransferURL
    def __init__(self, upload: _Optional[_Union[_checkpoint_pb2.TransferURL, _Mapping]] = ...) -> None: ...

class CommitArtifactRequest(_message.Message):
    __slots__ = ("job_id", "fence", "file", "content_type")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_TYPE_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    fence: int
    file: _checkpoint_pb2.CheckpointFile
    content_type: str
    def __init__(self, job_id: _Optional[str] = ..., fence: _Optional[int] = ..., file: _Optional[_Union[_checkpoint_pb2.CheckpointFile, _Mapping]] = ..., content_type: _Optional[str] = ...) -> None: ...

class CommitArtifactResponse(_message.Message):
    __slots__ = ("artifact",)
    ARTIFACT_FIELD_NUMBER: _ClassVar[int]
    artifact: _run_pb2.Artifact
    def __init__(self, artifact: _Optional[_Union[_run_pb2.Artifact, _Mapping]] = ...) -> None: ...

class PreparePartsRequest(_message.Message):
    __slots__ = ("job_id", "fence", "file", "parts")
    class Part(_message.Message):
        __slots__ = ("number", "size_bytes", "crc32c")
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        CRC32C_FIELD_NUMBER: _ClassVar[int]
        number: int
        size_bytes: int
        crc32c: int
        def __init__(self, number: _Optional[int] = ..., size_bytes: _Optional[int] = ..., crc32c: _Optional[int] = ...) -> None: ...
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    fence: int
    file: _checkpoint_pb2.CheckpointFile
    parts: _containers.RepeatedCompositeFieldContainer[PreparePartsRequest.Part]
    def __init__(self, job_id: _Optional[str] = ..., fence: _Optional[int] = ..., file: _Optional[_Union[_checkpoint_pb2.CheckpointFile, _Mapping]] = ..., parts: _Optional[_Iterable[_Union[PreparePartsRequest.Part, _Mapping]]] = ...) -> None: ...

class PreparePartsResponse(_message.Message):
    __slots__ = ("missing", "complete")
    class PartURL(_message.Message):
        __slots__ = ("number", "method", "url", "headers")
        class HeadersEntry(_message.Message):
            __slots__ = ("key", "value")
            KEY_FIELD_NUMBER: _ClassVar[int]
            VALUE_FIELD_NUMBER: _ClassVar[int]
            key: str
            value: str
            def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
        NUMBER_FIELD_NUMBER: _ClassVar[int]
        METHOD_FIELD_NUMBER: _ClassVar[int]
        URL_FIELD_NUMBER: _ClassVar[int]
        HEADERS_FIELD_NUMBER: _ClassVar[int]
        number: int
        method: str
        url: str
        headers: _containers.ScalarMap[str, str]
        def __init__(self, number: _Optional[int] = ..., method: _Optional[str] = ..., url: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ...) -> None: ...
    MISSING_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    missing: _containers.RepeatedCompositeFieldContainer[PreparePartsResponse.PartURL]
    complete: bool
    def __init__(self, missing: _Optional[_Iterable[_Union[PreparePartsResponse.PartURL, _Mapping]]] = ..., complete: bool = ...) -> None: ...
