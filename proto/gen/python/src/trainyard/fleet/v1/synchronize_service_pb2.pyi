from google.protobuf import duration_pb2 as _duration_pb2
from trainyard.fleet.v1 import agent_pb2 as _agent_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SynchronizeRequest(_message.Message):
    __slots__ = ("report", "known_revision")
    REPORT_FIELD_NUMBER: _ClassVar[int]
    KNOWN_REVISION_FIELD_NUMBER: _ClassVar[int]
    report: _agent_pb2.AgentReport
    known_revision: int
    def __init__(self, report: _Optional[_Union[_agent_pb2.AgentReport, _Mapping]] = ..., known_revision: _Optional[int] = ...) -> None: ...

class SynchronizeResponse(_message.Message):
    __slots__ = ("desired_revision", "assignments", "stops", "acknowledged_exits", "lease_duration", "next_contact")
    DESIRED_REVISION_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    STOPS_FIELD_NUMBER: _ClassVar[int]
    ACKNOWLEDGED_EXITS_FIELD_NUMBER: _ClassVar[int]
    LEASE_DURATION_FIELD_NUMBER: _ClassVar[int]
    NEXT_CONTACT_FIELD_NUMBER: _ClassVar[int]
    desired_revision: int
    assignments: _containers.RepeatedCompositeFieldContainer[_agent_pb2.Assignment]
    stops: _containers.RepeatedCompositeFieldContainer[_agent_pb2.StopOrder]
    acknowledged_exits: _containers.RepeatedCompositeFieldContainer[_agent_pb2.ExitKey]
    lease_duration: _duration_pb2.Duration
    next_contact: _duration_pb2.Duration
    def __init__(self, desired_revision: _Optional[int] = ..., assignments: _Optional[_Iterable[_Union[_agent_pb2.Assignment, _Mapping]]] = ..., stops: _Optional[_Iterable[_Union[_agent_pb2.StopOrder, _Mapping]]] = ..., acknowledged_exits: _Optional[_Iterable[_Union[_agent_pb2.ExitKey, _Mapping]]] = ..., lease_duration: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., next_contact: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ...) -> None: ...
