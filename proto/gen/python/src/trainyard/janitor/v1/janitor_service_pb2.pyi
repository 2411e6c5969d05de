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
    __slots__ = ("plan", "tombstoned_count", "tombstoned_bytes", "deleted_count", "deleted_bytes", "refusals", "end_time", "sweep_id")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONED_COUNT_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONED_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELETED_COUNT_FIELD_NUMBER: _ClassVar[int]
    DELETED_BYTES_FIELD_NUMBER: _ClassVar[int]
    REFUSALS_FIELD_NUMBER: _ClassVar[int]
    END_TIME_FIELD_NUMBER: _ClassVar[int]
    SWEEP_ID_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    tombstoned_count: int
    tombstoned_bytes: int
    deleted_count: int
    deleted_bytes: int
    refusals: _containers.RepeatedScalarFieldContainer[str]
    end_time: _timestamp_pb2.Timestamp
    sweep_id: str
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., tombstoned_count: _Optional[int] = ..., tombstoned_bytes: _Optional[int] = ..., deleted_count: _Optional[int] = ..., deleted_bytes: _Optional[int] = ..., refusals: _Optional[_Iterable[str]] = ..., end_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., sweep_id: _Optional[str] = ...) -> None: ...

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
    __slots__ = ("name", "count", "size_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    count: int
    size_bytes: int
    def __init__(self, name: _Optional[str] = ..., count: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class GetReportResponse(_message.Message):
    __slots__ = ("usage", "total_bytes", "capacity_bytes", "growth_bytes_per_day", "full_time", "alerts", "rendered", "report_time", "last_sweep_time")
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_BYTES_FIELD_NUMBER: _ClassVar[int]
    GROWTH_BYTES_PER_DAY_FIELD_NUMBER: _ClassVar[int]
    FULL_TIME_FIELD_NUMBER: _ClassVar[int]
    ALERTS_FIELD_NUMBER: _ClassVar[int]
    RENDERED_FIELD_NUMBER: _ClassVar[int]
    REPORT_TIME_FIELD_NUMBER: _ClassVar[int]
    LAST_SWEEP_TIME_FIELD_NUMBER: _ClassVar[int]
    usage: _containers.RepeatedCompositeFieldContainer[ClassUsage]
    total_bytes: int
    capacity_bytes: int
    growth_bytes_per_day: float
    full_time: _timestamp_pb2.Timestamp
    alerts: _containers.RepeatedScalarFieldContainer[str]
    rendered: str
    report_time: _timestamp_pb2.Timestamp
    last_sweep_time: _timestamp_pb2.Timestamp
    def __init__(self, usage: _Optional[_Iterable[_Union[ClassUsage, _Mapping]]] = ..., total_bytes: _Optional[int] = ..., capacity_bytes: _Optional[int] = ..., growth_bytes_per_day: _Optional[float] = ..., full_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., alerts: _Optional[_Iterable[str]] = ..., rendered: _Optional[str] = ..., report_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., last_sweep_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
