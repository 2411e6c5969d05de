from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.registry.v1 import checkpoint_pb2 as _checkpoint_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Stage(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STAGE_UNSPECIFIED: _ClassVar[Stage]
    STAGE_NONE: _ClassVar[Stage]
    STAGE_STAGING: _ClassVar[Stage]
    STAGE_PRODUCTION: _ClassVar[Stage]
    STAGE_ARCHIVED: _ClassVar[Stage]
STAGE_UNSPECIFIED: Stage
STAGE_NONE: Stage
STAGE_STAGING: Stage
STAGE_PRODUCTION: Stage
STAGE_ARCHIVED: Stage

class Model(_message.Message):
    __slots__ = ("name", "versions", "aliases", "create_time", "policy")
    class AliasesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    name: str
    versions: _containers.RepeatedCompositeFieldContainer[ModelVersion]
    aliases: _containers.ScalarMap[str, int]
    create_time: _timestamp_pb2.Timestamp
    policy: PromotionPolicy
    def __init__(self, name: _Optional[str] = ..., versions: _Optional[_Iterable[_Union[ModelVersion, _Mapping]]] = ..., aliases: _Optional[_Mapping[str, int]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., policy: _Optional[_Union[PromotionPolicy, _Mapping]] = ...) -> None: ...

class PromotionPolicy(_message.Message):
    __slots__ = ("gates", "required_checks", "approvals")
    GATES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_CHECKS_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    gates: _containers.RepeatedCompositeFieldContainer[PromotionGate]
    required_checks: _containers.RepeatedScalarFieldContainer[str]
    approvals: int
    def __init__(self, gates: _Optional[_Iterable[_Union[PromotionGate, _Mapping]]] = ..., required_checks: _Optional[_Iterable[str]] = ..., approvals: _Optional[int] = ...) -> None: ...

class Check(_message.Message):
    __slots__ = ("name", "passed", "detail", "actor", "time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    passed: bool
    detail: str
    actor: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., passed: bool = ..., detail: _Optional[str] = ..., actor: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Approval(_message.Message):
    __slots__ = ("actor", "reason", "time")
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    actor: str
    reason: str
    time: _timestamp_pb2.Timestamp
    def __init__(self, actor: _Optional[str] = ..., reason: _Optional[str] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ModelVersion(_message.Message):
    __slots__ = ("model_name", "version", "stage", "checkpoint_id", "run_id", "metrics", "manifest_sha256", "aliases", "create_time", "traceparent", "etag", "feature_schema", "evaluation_window", "checks", "approvals")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_SHA256_FIELD_NUMBER: _ClassVar[int]
    ALIASES_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    CHECKS_FIELD_NUMBER: _ClassVar[int]
    APPROVALS_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    version: int
    stage: Stage
    checkpoint_id: str
    run_id: str
    metrics: _containers.ScalarMap[str, float]
    manifest_sha256: bytes
    aliases: _containers.RepeatedScalarFieldContainer[str]
    create_time: _timestamp_pb2.Timestamp
    traceparent: str
    etag: str
    feature_schema: str
    evaluation_window: str
    checks: _containers.RepeatedCompositeFieldContainer[Check]
    approvals: _containers.RepeatedCompositeFieldContainer[Approval]
    def __init__(self, model_name: _Optional[str] = ..., version: _Optional[int] = ..., stage: _Optional[_Union[Stage, str]] = ..., checkpoint_id: _Optional[str] = ..., run_id: _Optional[str] = ..., metrics: _Optional[_Mapping[str, float]] = ..., manifest_sha256: _Optional[bytes] = ..., aliases: _Optional[_Iterable[str]] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., traceparent: _Optional[str] = ..., etag: _Optional[str] = ..., feature_schema: _Optional[str] = ..., evaluation_window: _Optional[str] = ..., checks: _Optional[_Iterable[_Union[Check, _Mapping]]] = ..., approvals: _Optional[_Iterable[_Union[Approval, _Mapping]]] = ...) -> None: ...

class PromotionGate(_message.Message):
    __slots__ = ("metric", "minimum", "maximum", "production_margin", "evaluation_window")
    METRIC_FIELD_NUMBER: _ClassVar[int]
    MINIMUM_FIELD_NUMBER: _ClassVar[int]
    MAXIMUM_FIELD_NUMBER: _ClassVar[int]
    PRODUCTION_MARGIN_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    metric: str
    minimum: float
    maximum: float
    production_margin: float
    evaluation_window: str
    def __init__(self, metric: _Optional[str] = ..., minimum: _Optional[float] = ..., maximum: _Optional[float] = ..., production_margin: _Optional[float] = ..., evaluation_window: _Optional[str] = ...) -> None: ...

class ModelEvent(_message.Message):
    __slots__ = ("sequence", "model_name", "version", "from_stage", "to_stage", "action", "actor", "reason", "gates", "time", "hash", "previous_hash", "trace_id", "subject")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FROM_STAGE_FIELD_NUMBER: _ClassVar[int]
    TO_STAGE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    ACTOR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_HASH_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    model_name: str
    version: int
    from_stage: Stage
    to_stage: Stage
    action: str
    actor: str
    reason: str
    gates: _containers.RepeatedScalarFieldContainer[str]
    time: _timestamp_pb2.Timestamp
    hash: bytes
    previous_hash: bytes
    trace_id: str
    subject: str
    def __init__(self, sequence: _Optional[int] = ..., model_name: _Optional[str] = ..., version: _Optional[int] = ..., from_stage: _Optional[_Union[Stage, str]] = ..., to_stage: _Optional[_Union[Stage, str]] = ..., action: _Optional[str] = ..., actor: _Optional[str] = ..., reason: _Optional[str] = ..., gates: _Optional[_Iterable[str]] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., hash: _Optional[bytes] = ..., previous_hash: _Optional[bytes] = ..., trace_id: _Optional[str] = ..., subject: _Optional[str] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ("name_prefix",)
    NAME_PREFIX_FIELD_NUMBER: _ClassVar[int]
    name_prefix: str
    def __init__(self, name_prefix: _Optional[str] = ...) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("model_name",)
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    def __init__(self, model_name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class CreateModelVersionRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "checkpoint_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    checkpoint_id: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., checkpoint_id: _Optional[str] = ...) -> None: ...

class CreateModelVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class PromoteModelVersionRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "version", "stage", "gates", "reason", "expected_production_version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_PRODUCTION_VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    version: int
    stage: Stage
    gates: _containers.RepeatedCompositeFieldContainer[PromotionGate]
    reason: str
    expected_production_version: int
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., version: _Optional[int] = ..., stage: _Optional[_Union[Stage, str]] = ..., gates: _Optional[_Iterable[_Union[PromotionGate, _Mapping]]] = ..., reason: _Optional[str] = ..., expected_production_version: _Optional[int] = ...) -> None: ...

class PromoteModelVersionResponse(_message.Message):
    __slots__ = ("version", "event")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    event: ModelEvent
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., event: _Optional[_Union[ModelEvent, _Mapping]] = ...) -> None: ...

class RollbackModelRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RollbackModelResponse(_message.Message):
    __slots__ = ("version", "event")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    event: ModelEvent
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., event: _Optional[_Union[ModelEvent, _Mapping]] = ...) -> None: ...

class ResolveModelRequest(_message.Message):
    __slots__ = ("model_name", "stage", "alias", "version")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    STAGE_FIELD_NUMBER: _ClassVar[int]
    ALIAS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    stage: Stage
    alias: str
    version: int
    def __init__(self, model_name: _Optional[str] = ..., stage: _Optional[_Union[Stage, str]] = ..., alias: _Optional[str] = ..., version: _Optional[int] = ...) -> None: ...

class ResolveModelResponse(_message.Message):
    __slots__ = ("version", "checkpoint", "downloads")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    DOWNLOADS_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    checkpoint: _checkpoint_pb2.Checkpoint
    downloads: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.TransferURL]
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ..., checkpoint: _Optional[_Union[_checkpoint_pb2.Checkpoint, _Mapping]] = ..., downloads: _Optional[_Iterable[_Union[_checkpoint_pb2.TransferURL, _Mapping]]] = ...) -> None: ...

class WatchModelRequest(_message.Message):
    __slots__ = ("model_name",)
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    def __init__(self, model_name: _Optional[str] = ...) -> None: ...

class WatchModelResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class ListModelHistoryRequest(_message.Message):
    __slots__ = ("model_name", "at_time", "page_size", "page_token")
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    AT_TIME_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    at_time: _timestamp_pb2.Timestamp
    page_size: int
    page_token: str
    def __init__(self, model_name: _Optional[str] = ..., at_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListModelHistoryResponse(_message.Message):
    __slots__ = ("events", "production_version_at_time", "next_page_token")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    PRODUCTION_VERSION_AT_TIME_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[ModelEvent]
    production_version_at_time: int
    next_page_token: str
    def __init__(self, events: _Optional[_Iterable[_Union[ModelEvent, _Mapping]]] = ..., production_version_at_time: _Optional[int] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class SetPromotionPolicyRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "policy", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    policy: PromotionPolicy
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., policy: _Optional[_Union[PromotionPolicy, _Mapping]] = ..., reason: _Optional[str] = ...) -> None: ...

class SetPromotionPolicyResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class RecordCheckRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "version", "name", "passed", "detail")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PASSED_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    version: int
    name: str
    passed: bool
    detail: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., version: _Optional[int] = ..., name: _Optional[str] = ..., passed: bool = ..., detail: _Optional[str] = ...) -> None: ...

class RecordCheckResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class ApproveModelVersionRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "version", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    version: int
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., version: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class ApproveModelVersionResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: ModelVersion
    def __init__(self, version: _Optional[_Union[ModelVersion, _Mapping]] = ...) -> None: ...

class VerifyModelHistoryRequest(_message.Message):
    __slots__ = ("model_name",)
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    def __init__(self, model_name: _Optional[str] = ...) -> None: ...

class VerifyModelHistoryResponse(_message.Message):
    __slots__ = ("intact", "events", "head_hash", "problem")
    INTACT_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    HEAD_HASH_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    intact: bool
    events: int
    head_hash: bytes
    problem: str
    def __init__(self, intact: bool = ..., events: _Optional[int] = ..., head_hash: _Optional[bytes] = ..., problem: _Optional[str] = ...) -> None: ...
