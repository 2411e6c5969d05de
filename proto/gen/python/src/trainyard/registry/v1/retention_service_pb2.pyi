from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.registry.v1 import checkpoint_pb2 as _checkpoint_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Root(_message.Message):
    __slots__ = ("kind", "description")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Root.Kind]
        KIND_PRODUCTION: _ClassVar[Root.Kind]
        KIND_STAGING: _ClassVar[Root.Kind]
        KIND_VERSION: _ClassVar[Root.Kind]
        KIND_ALIAS: _ClassVar[Root.Kind]
        KIND_ROLLBACK: _ClassVar[Root.Kind]
        KIND_LIVE_RUN: _ClassVar[Root.Kind]
        KIND_PARENT: _ClassVar[Root.Kind]
        KIND_PIN: _ClassVar[Root.Kind]
        KIND_LEGAL_HOLD: _ClassVar[Root.Kind]
    KIND_UNSPECIFIED: Root.Kind
    KIND_PRODUCTION: Root.Kind
    KIND_STAGING: Root.Kind
    KIND_VERSION: Root.Kind
    KIND_ALIAS: Root.Kind
    KIND_ROLLBACK: Root.Kind
    KIND_LIVE_RUN: Root.Kind
    KIND_PARENT: Root.Kind
    KIND_PIN: Root.Kind
    KIND_LEGAL_HOLD: Root.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    kind: Root.Kind
    description: str
    def __init__(self, kind: _Optional[_Union[Root.Kind, str]] = ..., description: _Optional[str] = ...) -> None: ...

class InventoryItem(_message.Message):
    __slots__ = ("checkpoint", "roots", "exclusive_bytes", "run_active", "last_use_time", "experiment_use_time", "base_checkpoint_ids")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RUN_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    LAST_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_USE_TIME_FIELD_NUMBER: _ClassVar[int]
    BASE_CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.Checkpoint
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    exclusive_bytes: int
    run_active: bool
    last_use_time: _timestamp_pb2.Timestamp
    experiment_use_time: _timestamp_pb2.Timestamp
    base_checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ..., roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., exclusive_bytes: _Optional[int] = ..., run_active: bool = ..., last_use_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., experiment_use_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., base_checkpoint_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ListInventoryRequest(_message.Message):
    __slots__ = ("page_size", "page_token", "contents_sha256")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONTENTS_SHA256_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    contents_sha256: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., contents_sha256: _Optional[_Iterable[bytes]] = ...) -> None: ...

class ListInventoryResponse(_message.Message):
    __slots__ = ("items", "next_page_token", "total_count")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[InventoryItem]
    next_page_token: str
    total_count: int
    def __init__(self, items: _Optional[_Iterable[_Union[InventoryItem, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., total_count: _Optional[int] = ...) -> None: ...

class RetentionResult(_message.Message):
    __slots__ = ("checkpoint_id", "state", "done", "reason")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    state: _checkpoint_pb2.Checkpoint.State
    done: bool
    reason: str
    def __init__(self, checkpoint_id: _Optional[str] = ..., state: _Optional[_Union[_checkpoint_pb2.Checkpoint.State, str]] = ..., done: bool = ..., reason: _Optional[str] = ...) -> None: ...

class TombstoneCheckpointsRequest(_message.Message):
    __slots__ = ("request_id", "plan_hash", "checkpoint_ids")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    plan_hash: str
    checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., plan_hash: _Optional[str] = ..., checkpoint_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class TombstoneCheckpointsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetentionResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetentionResult, _Mapping]]] = ...) -> None: ...

class RestoreCheckpointsRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_ids")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RestoreCheckpointsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetentionResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetentionResult, _Mapping]]] = ...) -> None: ...

class BeginDeleteCheckpointsRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_ids", "grace")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    grace: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_ids: _Optional[_Iterable[str]] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class BeginDeleteCheckpointsResponse(_message.Message):
    __slots__ = ("results", "object_keys")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEYS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetentionResult]
    object_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, results: _Optional[_Iterable[_Union[RetentionResult, _Mapping]]] = ..., object_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfirmDeletedRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_ids")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfirmDeletedResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[RetentionResult]
    def __init__(self, results: _Optional[_Iterable[_Union[RetentionResult, _Mapping]]] = ...) -> None: ...

class ColdCopy(_message.Message):
    __slots__ = ("sha256", "size_bytes", "object_key", "object_sha256", "object_size_bytes", "base_sha256")
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    OBJECT_SHA256_FIELD_NUMBER: _ClassVar[int]
    OBJECT_SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BASE_SHA256_FIELD_NUMBER: _ClassVar[int]
    sha256: bytes
    size_bytes: int
    object_key: str
    object_sha256: bytes
    object_size_bytes: int
    base_sha256: bytes
    def __init__(self, sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., object_key: _Optional[str] = ..., object_sha256: _Optional[bytes] = ..., object_size_bytes: _Optional[int] = ..., base_sha256: _Optional[bytes] = ...) -> None: ...

class ArchiveFile(_message.Message):
    __slots__ = ("paths", "sha256", "size_bytes", "hot_key", "cold_key", "existing", "base_chain")
    PATHS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOT_KEY_FIELD_NUMBER: _ClassVar[int]
    COLD_KEY_FIELD_NUMBER: _ClassVar[int]
    EXISTING_FIELD_NUMBER: _ClassVar[int]
    BASE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    paths: _containers.RepeatedScalarFieldContainer[str]
    sha256: bytes
    size_bytes: int
    hot_key: str
    cold_key: str
    existing: ColdCopy
    base_chain: _containers.RepeatedCompositeFieldContainer[ColdCopy]
    def __init__(self, paths: _Optional[_Iterable[str]] = ..., sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., hot_key: _Optional[str] = ..., cold_key: _Optional[str] = ..., existing: _Optional[_Union[ColdCopy, _Mapping]] = ..., base_chain: _Optional[_Iterable[_Union[ColdCopy, _Mapping]]] = ...) -> None: ...

class ArchiveJob(_message.Message):
    __slots__ = ("checkpoint_id", "done", "reason", "files")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    done: bool
    reason: str
    files: _containers.RepeatedCompositeFieldContainer[ArchiveFile]
    def __init__(self, checkpoint_id: _Optional[str] = ..., done: bool = ..., reason: _Optional[str] = ..., files: _Optional[_Iterable[_Union[ArchiveFile, _Mapping]]] = ...) -> None: ...

class BeginArchiveRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_ids", "drop_patterns")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    DROP_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    drop_patterns: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_ids: _Optional[_Iterable[str]] = ..., drop_patterns: _Optional[_Iterable[str]] = ...) -> None: ...

class BeginArchiveResponse(_message.Message):
    __slots__ = ("jobs",)
    JOBS_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[ArchiveJob]
    def __init__(self, jobs: _Optional[_Iterable[_Union[ArchiveJob, _Mapping]]] = ...) -> None: ...

class CommitArchiveRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_id", "copies", "drop_patterns", "grace")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    DROP_PATTERNS_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_id: str
    copies: _containers.RepeatedCompositeFieldContainer[ColdCopy]
    drop_patterns: _containers.RepeatedScalarFieldContainer[str]
    grace: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., copies: _Optional[_Iterable[_Union[ColdCopy, _Mapping]]] = ..., drop_patterns: _Optional[_Iterable[str]] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CommitArchiveResponse(_message.Message):
    __slots__ = ("result", "released_bytes", "dropped_bytes")
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RELEASED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    result: RetentionResult
    released_bytes: int
    dropped_bytes: int
    def __init__(self, result: _Optional[_Union[RetentionResult, _Mapping]] = ..., released_bytes: _Optional[int] = ..., dropped_bytes: _Optional[int] = ...) -> None: ...

class ObjectInfo(_message.Message):
    __slots__ = ("object_key", "tier", "state", "sha256", "object_sha256", "size_bytes", "checkpoint_count", "artifact_count", "dependent_count", "update_time")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[ObjectInfo.State]
        STATE_PENDING: _ClassVar[ObjectInfo.State]
        STATE_PRESENT: _ClassVar[ObjectInfo.State]
        STATE_CORRUPT: _ClassVar[ObjectInfo.State]
        STATE_DELETING: _ClassVar[ObjectInfo.State]
    STATE_UNSPECIFIED: ObjectInfo.State
    STATE_PENDING: ObjectInfo.State
    STATE_PRESENT: ObjectInfo.State
    STATE_CORRUPT: ObjectInfo.State
    STATE_DELETING: ObjectInfo.State
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    TIER_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    OBJECT_SHA256_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    ARTIFACT_COUNT_FIELD_NUMBER: _ClassVar[int]
    DEPENDENT_COUNT_FIELD_NUMBER: _ClassVar[int]
    UPDATE_TIME_FIELD_NUMBER: _ClassVar[int]
    object_key: str
    tier: _checkpoint_pb2.StorageTier
    state: ObjectInfo.State
    sha256: bytes
    object_sha256: bytes
    size_bytes: int
    checkpoint_count: int
    artifact_count: int
    dependent_count: int
    update_time: _timestamp_pb2.Timestamp
    def __init__(self, object_key: _Optional[str] = ..., tier: _Optional[_Union[_checkpoint_pb2.StorageTier, str]] = ..., state: _Optional[_Union[ObjectInfo.State, str]] = ..., sha256: _Optional[bytes] = ..., object_sha256: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., checkpoint_count: _Optional[int] = ..., artifact_count: _Optional[int] = ..., dependent_count: _Optional[int] = ..., update_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListObjectsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListObjectsResponse(_message.Message):
    __slots__ = ("objects", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectInfo]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ReleaseObjectsRequest(_message.Message):
    __slots__ = ("request_id", "objects", "grace")
    class Object(_message.Message):
        __slots__ = ("object_key", "size_bytes")
        OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
        SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
        object_key: str
        size_bytes: int
        def __init__(self, object_key: _Optional[str] = ..., size_bytes: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    GRACE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    objects: _containers.RepeatedCompositeFieldContainer[ReleaseObjectsRequest.Object]
    grace: _duration_pb2.Duration
    def __init__(self, request_id: _Optional[str] = ..., objects: _Optional[_Iterable[_Union[ReleaseObjectsRequest.Object, _Mapping]]] = ..., grace: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ObjectResult(_message.Message):
    __slots__ = ("object_key", "done", "reason")
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    object_key: str
    done: bool
    reason: str
    def __init__(self, object_key: _Optional[str] = ..., done: bool = ..., reason: _Optional[str] = ...) -> None: ...

class ReleaseObjectsResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[ObjectResult]
    def __init__(self, results: _Optional[_Iterable[_Union[ObjectResult, _Mapping]]] = ...) -> None: ...

class ListReleasedObjectsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ReleasedObject(_message.Message):
    __slots__ = ("object_key", "size_bytes", "reason", "due_time")
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    object_key: str
    size_bytes: int
    reason: str
    due_time: _timestamp_pb2.Timestamp
    def __init__(self, object_key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., reason: _Optional[str] = ..., due_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListReleasedObjectsResponse(_message.Message):
    __slots__ = ("objects", "next_page_token")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ReleasedObject]
    next_page_token: str
    def __init__(self, objects: _Optional[_Iterable[_Union[ReleasedObject, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class ConfirmRemovedRequest(_message.Message):
    __slots__ = ("request_id", "object_keys")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEYS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    object_keys: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., object_keys: _Optional[_Iterable[str]] = ...) -> None: ...

class ConfirmRemovedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ReportBadObjectRequest(_message.Message):
    __slots__ = ("request_id", "object_key", "detail")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    object_key: str
    detail: str
    def __init__(self, request_id: _Optional[str] = ..., object_key: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class ReportBadObjectResponse(_message.Message):
    __slots__ = ("repaired", "corrupt_checkpoint_ids", "outcome")
    REPAIRED_FIELD_NUMBER: _ClassVar[int]
    CORRUPT_CHECKPOINT_IDS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    repaired: bool
    corrupt_checkpoint_ids: _containers.RepeatedScalarFieldContainer[str]
    outcome: str
    def __init__(self, repaired: bool = ..., corrupt_checkpoint_ids: _Optional[_Iterable[str]] = ..., outcome: _Optional[str] = ...) -> None: ...

class SetLegalHoldRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_id", "held", "actor", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_id: str
    held: bool
    actor: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., held: bool = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SetLegalHoldResponse(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: RetentionResult
    def __init__(self, result: _Optional[_Union[RetentionResult, _Mapping]] = ...) -> None: ...
