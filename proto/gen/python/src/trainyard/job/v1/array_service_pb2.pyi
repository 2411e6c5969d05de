from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.job.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class JobArray(_message.Message):
    __slots__ = ("array_id", "template", "count", "max_parallel", "submitter", "create_time", "waiting", "running", "succeeded", "failed", "cancelled")
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    SUBMITTER_FIELD_NUMBER: _ClassVar[int]
    CREATE_TIME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SUCCEEDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    array_id: str
    template: _job_pb2.JobSpec
    count: int
    max_parallel: int
    submitter: str
    create_time: _timestamp_pb2.Timestamp
    waiting: int
    running: int
    succeeded: int
    failed: int
    cancelled: int
    def __init__(self, array_id: _Optional[str] = ..., template: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., count: _Optional[int] = ..., max_parallel: _Optional[int] = ..., submitter: _Optional[str] = ..., create_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., waiting: _Optional[int] = ..., running: _Optional[int] = ..., succeeded: _Optional[int] = ..., failed: _Optional[int] = ..., cancelled: _Optional[int] = ...) -> None: ...

class SubmitArrayRequest(_message.Message):
    __slots__ = ("request_id", "template", "count", "max_parallel", "validate_only")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    MAX_PARALLEL_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    template: _job_pb2.JobSpec
    count: int
    max_parallel: int
    validate_only: bool
    def __init__(self, request_id: _Optional[str] = ..., template: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., count: _Optional[int] = ..., max_parallel: _Optional[int] = ..., validate_only: bool = ...) -> None: ...

class SubmitArrayResponse(_message.Message):
    __slots__ = ("array",)
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    array: JobArray
    def __init__(self, array: _Optional[_Union[JobArray, _Mapping]] = ...) -> None: ...

class GetArrayRequest(_message.Message):
    __slots__ = ("array_id",)
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    array_id: str
    def __init__(self, array_id: _Optional[str] = ...) -> None: ...

class GetArrayResponse(_message.Message):
    __slots__ = ("array",)
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    array: JobArray
    def __init__(self, array: _Optional[_Union[JobArray, _Mapping]] = ...) -> None: ...

class ListArraysRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListArraysResponse(_message.Message):
    __slots__ = ("arrays", "next_page_token")
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    arrays: _containers.RepeatedCompositeFieldContainer[JobArray]
    next_page_token: str
    def __init__(self, arrays: _Optional[_Iterable[_Union[JobArray, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CancelArrayRequest(_message.Message):
    __slots__ = ("request_id", "array_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    array_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., array_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelArrayResponse(_message.Message):
    __slots__ = ("array",)
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    array: JobArray
    def __init__(self, array: _Optional[_Union[JobArray, _Mapping]] = ...) -> None: ...

class ExplainArrayRequest(_message.Message):
    __slots__ = ("array_id",)
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    array_id: str
    def __init__(self, array_id: _Optional[str] = ...) -> None: ...

class ExplainArrayResponse(_message.Message):
    __slots__ = ("array", "summary", "groups", "explain_time")
    class Group(_message.Message):
        __slots__ = ("reason", "count", "job_ids")
        REASON_FIELD_NUMBER: _ClassVar[int]
        COUNT_FIELD_NUMBER: _ClassVar[int]
        JOB_IDS_FIELD_NUMBER: _ClassVar[int]
        reason: str
        count: int
        job_ids: _containers.RepeatedScalarFieldContainer[str]
        def __init__(self, reason: _Optional[str] = ..., count: _Optional[int] = ..., job_ids: _Optional[_Iterable[str]] = ...) -> None: ...
    ARRAY_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    array: JobArray
    summary: str
    groups: _containers.RepeatedCompositeFieldContainer[ExplainArrayResponse.Group]
    explain_time: _timestamp_pb2.Timestamp
    def __init__(self, array: _Optional[_Union[JobArray, _Mapping]] = ..., summary: _Optional[str] = ..., groups: _Optional[_Iterable[_Union[ExplainArrayResponse.Group, _Mapping]]] = ..., explain_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...
