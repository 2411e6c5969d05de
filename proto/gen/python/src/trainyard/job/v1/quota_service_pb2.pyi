from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DeviceQuota(_message.Message):
    __slots__ = ("kind", "nominal", "borrow_limit")
    KIND_FIELD_NUMBER: _ClassVar[int]
    NOMINAL_FIELD_NUMBER: _ClassVar[int]
    BORROW_LIMIT_FIELD_NUMBER: _ClassVar[int]
    kind: str
    nominal: float
    borrow_limit: float
    def __init__(self, kind: _Optional[str] = ..., nominal: _Optional[float] = ..., borrow_limit: _Optional[float] = ...) -> None: ...

class Quota(_message.Message):
    __slots__ = ("tenant", "cohort", "weight", "devices", "max_jobs")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    COHORT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    MAX_JOBS_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    cohort: str
    weight: float
    devices: _containers.RepeatedCompositeFieldContainer[DeviceQuota]
    max_jobs: int
    def __init__(self, tenant: _Optional[str] = ..., cohort: _Optional[str] = ..., weight: _Optional[float] = ..., devices: _Optional[_Iterable[_Union[DeviceQuota, _Mapping]]] = ..., max_jobs: _Optional[int] = ...) -> None: ...

class DeviceUsage(_message.Message):
    __slots__ = ("kind", "used", "borrowed")
    KIND_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    BORROWED_FIELD_NUMBER: _ClassVar[int]
    kind: str
    used: float
    borrowed: float
    def __init__(self, kind: _Optional[str] = ..., used: _Optional[float] = ..., borrowed: _Optional[float] = ...) -> None: ...

class TenantUsage(_message.Message):
    __slots__ = ("tenant", "devices", "queued", "running", "unfinished")
    TENANT_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    UNFINISHED_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    devices: _containers.RepeatedCompositeFieldContainer[DeviceUsage]
    queued: int
    running: int
    unfinished: int
    def __init__(self, tenant: _Optional[str] = ..., devices: _Optional[_Iterable[_Union[DeviceUsage, _Mapping]]] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., unfinished: _Optional[int] = ...) -> None: ...

class SetQuotaRequest(_message.Message):
    __slots__ = ("request_id", "quota")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    quota: Quota
    def __init__(self, request_id: _Optional[str] = ..., quota: _Optional[_Union[Quota, _Mapping]] = ...) -> None: ...

class SetQuotaResponse(_message.Message):
    __slots__ = ("quota", "usage")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    quota: Quota
    usage: TenantUsage
    def __init__(self, quota: _Optional[_Union[Quota, _Mapping]] = ..., usage: _Optional[_Union[TenantUsage, _Mapping]] = ...) -> None: ...

class GetQuotaRequest(_message.Message):
    __slots__ = ("tenant",)
    TENANT_FIELD_NUMBER: _ClassVar[int]
    tenant: str
    def __init__(self, tenant: _Optional[str] = ...) -> None: ...

class GetQuotaResponse(_message.Message):
    __slots__ = ("quota", "usage")
    QUOTA_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    quota: Quota
    usage: TenantUsage
    def __init__(self, quota: _Optional[_Union[Quota, _Mapping]] = ..., usage: _Optional[_Union[TenantUsage, _Mapping]] = ...) -> None: ...

class ListQuotasRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListQuotasResponse(_message.Message):
    __slots__ = ("tenants",)
    class Tenant(_message.Message):
        __slots__ = ("quota", "usage")
        QUOTA_FIELD_NUMBER: _ClassVar[int]
        USAGE_FIELD_NUMBER: _ClassVar[int]
        quota: Quota
        usage: TenantUsage
        def __init__(self, quota: _Optional[_Union[Quota, _Mapping]] = ..., usage: _Optional[_Union[TenantUsage, _Mapping]] = ...) -> None: ...
    TENANTS_FIELD_NUMBER: _ClassVar[int]
    tenants: _containers.RepeatedCompositeFieldContainer[ListQuotasResponse.Tenant]
    def __init__(self, tenants: _Optional[_Iterable[_Union[ListQuotasResponse.Tenant, _Mapping]]] = ...) -> None: ...

class DeleteQuotaRequest(_message.Message):
    __slots__ = ("request_id", "tenant")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    tenant: str
    def __init__(self, request_id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class DeleteQuotaResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...
