from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Action(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACTION_UNSPECIFIED: _ClassVar[Action]
    ACTION_KEEP: _ClassVar[Action]
    ACTION_ARCHIVE: _ClassVar[Action]
    ACTION_DROP: _ClassVar[Action]
ACTION_UNSPECIFIED: Action
ACTION_KEEP: Action
ACTION_ARCHIVE: Action
ACTION_DROP: Action

class Decision(_message.Message):
    __slots__ = ("checkpoint_id", "action", "reason", "rules", "size_bytes", "exclusive_bytes", "experiment", "run_id", "step")
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXCLUSIVE_BYTES_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    action: Action
    reason: str
    rules: _containers.RepeatedScalarFieldContainer[str]
    size_bytes: int
    exclusive_bytes: int
    experiment: str
    run_id: str
    step: int
    def __init__(self, checkpoint_id: _Optional[str] = ..., action: _Optional[_Union[Action, str]] = ..., reason: _Optional[str] = ..., rules: _Optional[_Iterable[str]] = ..., size_bytes: _Optional[int] = ..., exclusive_bytes: _Optional[int] = ..., experiment: _Optional[str] = ..., run_id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class RuleTotal(_message.Message):
    __slots__ = ("action", "rule", "count", "size_bytes")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    action: Action
    rule: str
    count: int
    size_bytes: int
    def __init__(self, action: _Optional[_Union[Action, str]] = ..., rule: _Optional[str] = ..., count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("plan_hash", "policy_version", "plan_time", "decisions", "totals", "changes")
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    POLICY_VERSION_FIELD_NUMBER: _ClassVar[int]
    PLAN_TIME_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    TOTALS_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    plan_hash: str
    policy_version: str
    plan_time: _timestamp_pb2.Timestamp
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    totals: _containers.RepeatedCompositeFieldContainer[RuleTotal]
    changes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, plan_hash: _Optional[str] = ..., policy_version: _Optional[str] = ..., plan_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., totals: _Optional[_Iterable[_Union[RuleTotal, _Mapping]]] = ..., changes: _Optional[_Iterable[str]] = ...) -> None: ...

class PlanSweepRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class PlanSweepResponse(_message.Message):
    __slots__ = ("plan",)
    PLAN_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ...) -> None: ...

class ExecuteSweepRequest(_message.Message):
    __slots__ = ("request_id", "plan_hash", "confirm_large")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PLAN_HASH_FIELD_NUMBER: _ClassVar[int]
    CONFIRM_LARGE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    plan_hash: str
    confirm_large: bool
    def __init__(self, request_id: _Optional[str] = ..., plan_hash: _Optional[str] = ..., confirm_large: bool = ...) -> None: ...

class ExecuteSweepResponse(_message.Message):
    __slots__ = ("plan", "tombstoned_count", "tombstoned_bytes", "deleted_count", "deleted_bytes", "refusals", "end_time", "sweep_id", "archived_count", "archived_bytes", "cold_bytes", "dropped_bytes")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELETED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SWEEP_ID_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_COUNT_FIELD_NUMBER: _ClassVar[int]
    ARCHIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    COLD_BYTES_FIELD_NUMBER: _ClassVar[int]
    DROPPED_BYTES_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    tombstoned_count: int
    tombstoned_bytes: int
    deleted_count: int
    deleted_bytes: int
    refusals: _containers.RepeatedScalarFieldContainer[str]
    end_time: _timestamp_pb2.Timestamp
    sweep_id: str
    archived_count: int
    archived_bytes: int
    cold_bytes: int
    dropped_bytes: int
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., tombstoned_count: _Optional[int] = ..., tombstoned_bytes: _Optional[int] = ..., deleted_count: _Optional[int] = ..., deleted_bytes: _Optional[int] = ..., refusals: _Optional[_Iterable[str]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sweep_id: _Optional[str] = ..., archived_count: _Optional[int] = ..., archived_bytes: _Optional[int] = ..., cold_bytes: _Optional[int] = ..., dropped_bytes: _Optional[int] = ...) -> None: ...

class ExplainCheckpointRequest(_message.Message):
    __slots__ = ("checkpoint_id",)
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    checkpoint_id: str
    def __init__(self, checkpoint_id: _Optional[str] = ...) -> None: ...

class ExplainCheckpointResponse(_message.Message):
    __slots__ = ("decision", "state")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    decision: Decision
    state: str
    def __init__(self, decision: _Optional[_Union[Decision, _Mapping]] = ..., state: _Optional[str] = ...) -> None: ...

class RestoreCheckpointRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_id: str
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ...) -> None: ...

class RestoreCheckpointResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class GetReportRequest(_message.Message):
    __slots__ = ("format",)
    class Format(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        FORMAT_UNSPECIFIED: _ClassVar[GetReportRequest.Format]
        FORMAT_TEXT: _ClassVar[GetReportRequest.Format]
        FORMAT_HTML: _ClassVar[GetReportRequest.Format]
        FORMAT_JSON: _ClassVar[GetReportRequest.Format]
    FORMAT_UNSPECIFIED: GetReportRequest.Format
    FORMAT_TEXT: GetReportRequest.Format
    FORMAT_HTML: GetReportRequest.Format
    FORMAT_JSON: GetReportRequest.Format
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    format: GetReportRequest.Format
    def __init__(self, format: _Optional[_Union[GetReportRequest.Format, str]] = ...) -> None: ...

class ClassUsage(_message.Message):
    __slots__ = ("name", "count", "size_bytes", "growth_bytes_per_day")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_BYTES_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    size_bytes: int
    growth_bytes_per_day: float
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., growth_bytes_per_day: _Optional[float] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("usage", "total_bytes", "capacity_bytes", "growth_bytes_per_day", "full_time", "alerts", "rendered", "report_time", "last_sweep_time", "cold_bytes", "cold_content_bytes", "last_drill_time")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_BYTES_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    FULL_TIME_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    RENDERED_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SWEEP_TIME_FIELD_NUMBER: _ClassVar[int]
    COLD_BYTES_FIELD_NUMBER: _ClassVar[int]
    COLD_CONTENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAST_DRILL_TIME_FIELD_NUMBER: _ClassVar[int]
    usage: _containers.RepeatedCompositeFieldContainer[ClassUsage]
    total_bytes: int
    capacity_bytes: int
    growth_bytes_per_day: float
    full_time: _timestamp_pb2.Timestamp
    alerts: _containers.RepeatedScalarFieldContainer[str]
    rendered: str
    report_time: _timestamp_pb2.Timestamp
    last_sweep_time: _timestamp_pb2.Timestamp
    cold_bytes: int
    cold_content_bytes: int
    last_drill_time: _timestamp_pb2.Timestamp
    def __init__(self, usage: _Optional[_Iterable[_Union[ClassUsage, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., growth_bytes_per_day: _Optional[float] = ..., full_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., alerts: _Optional[_Iterable[str]] = ..., rendered: _Optional[str] = ..., report_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_sweep_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., cold_bytes: _Optional[int] = ..., cold_content_bytes: _Optional[int] = ..., last_drill_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SetLegalHoldRequest(_message.Message):
    __slots__ = ("request_id", "checkpoint_id", "held", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    checkpoint_id: str
    held: bool
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., held: bool = ..., reason: _Optional[str] = ...) -> None: ...

class SetLegalHoldResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: str
    def __init__(self, state: _Optional[str] = ...) -> None: ...

class Finding(_message.Message):
    __slots__ = ("kind", "object_key", "size_bytes", "first_seen_time", "due_time", "detail")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Finding.Kind]
        KIND_ORPHAN: _ClassVar[Finding.Kind]
        KIND_FOREIGN: _ClassVar[Finding.Kind]
        KIND_MISSING: _ClassVar[Finding.Kind]
        KIND_MISMATCHED: _ClassVar[Finding.Kind]
        KIND_CORRUPT: _ClassVar[Finding.Kind]
    KIND_UNSPECIFIED: Finding.Kind
    KIND_ORPHAN: Finding.Kind
    KIND_FOREIGN: Finding.Kind
    KIND_MISSING: Finding.Kind
    KIND_MISMATCHED: Finding.Kind
    KIND_CORRUPT: Finding.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEEN_TIME_FIELD_NUMBER: _ClassVar[int]
    DUE_TIME_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    kind: Finding.Kind
    object_key: str
    size_bytes: int
    first_seen_time: _timestamp_pb2.Timestamp
    due_time: _timestamp_pb2.Timestamp
    detail: str
    def __init__(self, kind: _Optional[_Union[Finding.Kind, str]] = ..., object_key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., first_seen_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., due_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., detail: _Optional[str] = ...) -> None: ...

class ListFindingsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListFindingsResponse(_message.Message):
    __slots__ = ("findings", "total_count")
    FINDINGS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_COUNT_FIELD_NUMBER: _ClassVar[int]
    findings: _containers.RepeatedCompositeFieldContainer[Finding]
    total_count: int
    def __init__(self, findings: _Optional[_Iterable[_Union[Finding, _Mapping]]] = ..., total_count: _Optional[int] = ...) -> None: ...

class RunDrillRequest(_message.Message):
    __slots__ = ("request_id", "sample_size")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SIZE_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    sample_size: int
    def __init__(self, request_id: _Optional[str] = ..., sample_size: _Optional[int] = ...) -> None: ...

class RunDrillResponse(_message.Message):
    __slots__ = ("checkpoint_count", "size_bytes", "failures")
    CHECKPOINT_COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    checkpoint_count: int
    size_bytes: int
    failures: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, checkpoint_count: _Optional[int] = ..., size_bytes: _Optional[int] = ..., failures: _Optional[_Iterable[str]] = ...) -> None: ...
