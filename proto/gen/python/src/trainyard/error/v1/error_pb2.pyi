from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from typing import ClassVar as _ClassVar

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REASON_UNSPECIFIED: _ClassVar[Reason]
    REASON_INVALID_FIELDS: _ClassVar[Reason]
    REASON_REQUEST_ID_REUSED: _ClassVar[Reason]
    REASON_PAGE_TOKEN_INVALID: _ClassVar[Reason]
    REASON_PROTOCOL_VIOLATION: _ClassVar[Reason]
    REASON_RESOURCE_NOT_FOUND: _ClassVar[Reason]
    REASON_RESOURCE_EXISTS: _ClassVar[Reason]
    REASON_LEASE_FENCED: _ClassVar[Reason]
    REASON_ILLEGAL_TRANSITION: _ClassVar[Reason]
    REASON_GATE_FAILED: _ClassVar[Reason]
    REASON_OBJECT_REFERENCED: _ClassVar[Reason]
    REASON_CAP_EXCEEDED: _ClassVar[Reason]
    REASON_DIGEST_MISMATCH: _ClassVar[Reason]
    REASON_CONFLICT: _ClassVar[Reason]
    REASON_QUOTA_EXCEEDED: _ClassVar[Reason]
    REASON_UNAUTHENTICATED: _ClassVar[Reason]
    REASON_CALLER_NOT_ALLOWED: _ClassVar[Reason]
    REASON_DEPENDENCY_UNAVAILABLE: _ClassVar[Reason]
    REASON_DRAINING: _ClassVar[Reason]
    REASON_DEADLINE_EXCEEDED: _ClassVar[Reason]
    REASON_INTERNAL: _ClassVar[Reason]
    REASON_DEMAND_IMPOSSIBLE: _ClassVar[Reason]
    REASON_SPOOL_FULL: _ClassVar[Reason]
    REASON_ARTIFACT_REJECTED: _ClassVar[Reason]
    REASON_NOT_LEADER: _ClassVar[Reason]
REASON_UNSPECIFIED: Reason
REASON_INVALID_FIELDS: Reason
REASON_REQUEST_ID_REUSED: Reason
REASON_PAGE_TOKEN_INVALID: Reason
REASON_PROTOCOL_VIOLATION: Reason
REASON_RESOURCE_NOT_FOUND: Reason
REASON_RESOURCE_EXISTS: Reason
REASON_LEASE_FENCED: Reason
REASON_ILLEGAL_TRANSITION: Reason
REASON_GATE_FAILED: Reason
REASON_OBJECT_REFERENCED: Reason
REASON_CAP_EXCEEDED: Reason
REASON_DIGEST_MISMATCH: Reason
REASON_CONFLICT: Reason
REASON_QUOTA_EXCEEDED: Reason
REASON_UNAUTHENTICATED: Reason
REASON_CALLER_NOT_ALLOWED: Reason
REASON_DEPENDENCY_UNAVAILABLE: Reason
REASON_DRAINING: Reason
REASON_DEADLINE_EXCEEDED: Reason
REASON_INTERNAL: Reason
REASON_DEMAND_IMPOSSIBLE: Reason
REASON_SPOOL_FULL: Reason
REASON_ARTIFACT_REJECTED: Reason
REASON_NOT_LEADER: Reason
