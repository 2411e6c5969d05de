from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StorageTier(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STORAGE_TIER_UNSPECIFIED: _ClassVar[StorageTier]
    STORAGE_TIER_HOT: _ClassVar[StorageTier]
    STORAGE_TIER_COLD: _ClassVar[StorageTier]
STORAGE_TIER_UNSPECIFIED: StorageTier
STORAGE_TIER_HOT: StorageTier
STORAGE_TIER_COLD: StorageTier

class Chunk(_message.Message):
    __slots__ = ("sha256", "size_bytes")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class CheckpointFile(_message.Message):
    __slots__ = ("path", "sha256", "size_bytes", "chunks")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    path: str
    sha256: bytes
    size_bytes: int
    chunks: _containers.RepeatedCompositeFieldContainer[Chunk]
    def __init__(self, path: _Optional[str] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., chunks: _Optional[_Iterable[_Union[Chunk, _Mapping]]] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("checkpoint_id", "run_id", "experiment", "attempt", "fence", "step", "files", "manifest_sha256", "size_bytes", "metrics", "resumable", "feature_schema", "data_version", "evaluation_window", "trades", "parent_checkpoint_id", "state", "pinned", "create_time", "tombstone_time", "code_version", "storage_tier", "shared_bytes")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[Checkpoint.State]
        STATE_STAGED: _ClassVar[Checkpoint.State]
        STATE_LIVE: _ClassVar[Checkpoint.State]
        STATE_TOMBSTONED: _ClassVar[Checkpoint.State]
        STATE_DELETING: _ClassVar[Checkpoint.State]
        STATE_DELETED: _ClassVar[Checkpoint.State]
        STATE_CORRUPT: _ClassVar[Checkpoint.State]
    STATE_UNSPECIFIED: Checkpoint.State
    STATE_STAGED: Checkpoint.State
    STATE_LIVE: Checkpoint.State
    STATE_TOMBSTONED: Checkpoint.State
    STATE_DELETING: Checkpoint.State
    STATE_DELETED: Checkpoint.State
    STATE_CORRUPT: Checkpoint.State
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    FENCE_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    RESUMABLE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    TRADES_FIELD_NUMBER: _ClassVar[int]
    PARENT_CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONE_TIME_FIELD_NUMBER: _ClassVar[int]
    CODE_VERSION_FIELD_NUMBER: _ClassVar[int]
    STORAGE_TIER_FIELD_NUMBER: _ClassVar[int]
    SHARED_BYTES_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    run_id: str
    experiment: str
    attempt: int
    fence: int
    step: int
    files: _containers.RepeatedCompositeFieldContainer[CheckpointFile]
    manifest_sha256: bytes
    size_bytes: int
    metrics: _containers.ScalarMap[str, float]
    resumable: bool
    feature_schema: str
    data_version: str
    evaluation_window: str
    trades: int
    parent_checkpoint_id: str
    state: Checkpoint.State
    pinned: bool
    create_time: _timestamp_pb2.Timestamp
    tombstone_time: _timestamp_pb2.Timestamp
    code_version: str
    storage_tier: StorageTier
    shared_bytes: int
    def __init__(self, checkpoint_id: _Optional[str] = ..., run_id: _Optional[str] = ..., experiment: _Optional[str] = ..., attempt: _Optional[int] = ..., fence: _Optional[int] = ..., step: _Optional[int] = ..., files: _Optional[_Iterable[_Union[CheckpointFile, _Mapping]]] = ..., manifest_sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., metrics: _Optional[_Mapping[str, float]] = ..., resumable: bool = ..., feature_schema: _Optional[str] = ..., data_version: _Optional[str] = ..., evaluation_window: _Optional[str] = ..., trades: _Optional[int] = ..., parent_checkpoint_id: _Optional[str] = ..., state: _Optional[_Union[Checkpoint.State, str]] = ..., pinned: bool = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., tombstone_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., code_version: _Optional[str] = ..., storage_tier: _Optional[_Union[StorageTier, str]] = ..., shared_bytes: _Optional[int] = ...) -> None: ...

class TransferURL(_message.Message):
    __slots__ = ("sha256", "size_bytes", "method", "url", "headers", "expire_time", "paths")
    class HeadersEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    URL_FIELD_NUMBER: _ClassVar[int]
    HEADERS_FIELD_NUMBER: _ClassVar[int]
    EXPIRE_TIME_FIELD_NUMBER: _ClassVar[int]
    PATHS_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    method: str
    url: str
    headers: _containers.ScalarMap[str, str]
    expire_time: _timestamp_pb2.Timestamp
    paths: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., method: _Optional[str] = ..., url: _Optional[str] = ..., headers: _Optional[_Mapping[str, str]] = ..., expire_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., paths: _Optional[_Iterable[str]] = ...) -> None: ...
