from google.protobuf import duration_pb2 as _duration_pb2
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
    KIND_UNSPECIFIED: Root.Kind
    KIND_PRODUCTION: Root.Kind
    KIND_STAGING: Root.Kind
    KIND_VERSION: Root.Kind
    KIND_ALIAS: Root.Kind
    KIND_ROLLBACK: Root.Kind
    KIND_LIVE_RUN: Root.Kind
    KIND_PARENT: Root.Kind
    KIND_PIN: Root.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    kind: Root.Kind
    description: str
    def __init__(self, kind: _Optional[_Union[Root.Kind, str]] = ..., description: _Optional[str] = ...) -> None: ...

class InventoryItem(_message.Message):
    __slots__ = ("checkpoint", "roots", "exclusive_bytes", "run_active")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RUN_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _checkpoint_pb2.Checkpoint
    roots: _containers.RepeatedCompositeFieldContainer[Root]
    exclusive_bytes: int
    run_active: bool
    def __init__(self, checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ..., roots: _Optional[_Iterable[_Union[Root, _Mapping]]] = ..., exclusive_bytes: _Optional[int] = ..., run_active: bool = ...) -> None: ...

class ListInventoryRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

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
