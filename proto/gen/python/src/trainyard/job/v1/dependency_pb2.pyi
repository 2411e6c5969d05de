from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DependencyFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEPENDENCY_FAILURE_UNSPECIFIED: _ClassVar[DependencyFailure]
    DEPENDENCY_FAILURE_CANCEL: _ClassVar[DependencyFailure]
    DEPENDENCY_FAILURE_IGNORE: _ClassVar[DependencyFailure]
    DEPENDENCY_FAILURE_HOLD: _ClassVar[DependencyFailure]
DEPENDENCY_FAILURE_UNSPECIFIED: DependencyFailure
DEPENDENCY_FAILURE_CANCEL: DependencyFailure
DEPENDENCY_FAILURE_IGNORE: DependencyFailure
DEPENDENCY_FAILURE_HOLD: DependencyFailure

class ModelPromotion(_message.Message):
    __slots__ = ("model_name",)
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    model_name: str
    def __init__(self, model_name: _Optional[str] = ...) -> None: ...

class Dependency(_message.Message):
    __slots__ = ("job", "model_promoted", "array", "on_failure")
    JOB_FIELD_NUMBER: _ClassVar[int]
    MODEL_PROMOTED_FIELD_NUMBER: _ClassVar[int]
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    job: str
    model_promoted: ModelPromotion
    array: str
    on_failure: DependencyFailure
    def __init__(self, job: _Optional[str] = ..., model_promoted: _Optional[_Union[ModelPromotion, _Mapping]] = ..., array: _Optional[str] = ..., on_failure: _Optional[_Union[DependencyFailure, str]] = ...) -> None: ...

class DependencyState(_message.Message):
    __slots__ = ("dependency", "state", "reason")
    class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        STATE_UNSPECIFIED: _ClassVar[DependencyState.State]
        STATE_WAITING: _ClassVar[DependencyState.State]
        STATE_MET: _ClassVar[DependencyState.State]
        STATE_FAILED: _ClassVar[DependencyState.State]
    STATE_UNSPECIFIED: DependencyState.State
    STATE_WAITING: DependencyState.State
    STATE_MET: DependencyState.State
    STATE_FAILED: DependencyState.State
    DEPENDENCY_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    dependency: Dependency
    state: DependencyState.State
    reason: str
    def __init__(self, dependency: _Optional[_Union[Dependency, _Mapping]] = ..., state: _Optional[_Union[DependencyState.State, str]] = ..., reason: _Optional[str] = ...) -> None: ...
