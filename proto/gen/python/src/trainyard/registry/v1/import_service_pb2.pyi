from trainyard.registry.v1 import checkpoint_pb2 as _checkpoint_pb2
from trainyard.registry.v1 import model_service_pb2 as _model_service_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BeginImportRequest(_message.Message):
    __slots__ = ("request_id", "model_name", "experiment", "files", "provenance", "metrics", "feature_schema", "evaluation_window", "data_version", "display_name")
    class ProvenanceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_NAME_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_FIELD_NUMBER: _ClassVar[int]
    FILES_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_WINDOW_FIELD_NUMBER: _ClassVar[int]
    DATA_VERSION_FIELD_NUMBER: _ClassVar[int]
    DISPLAY_NAME_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    model_name: str
    experiment: str
    files: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.CheckpointFile]
    provenance: _containers.ScalarMap[str, str]
    metrics: _containers.ScalarMap[str, float]
    feature_schema: str
    evaluation_window: str
    data_version: str
    display_name: str
    def __init__(self, request_id: _Optional[str] = ..., model_name: _Optional[str] = ..., experiment: _Optional[str] = ..., files: _Optional[_Iterable[_Union[_checkpoint_pb2.CheckpointFile, _Mapping]]] = ..., provenance: _Optional[_Mapping[str, str]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., feature_schema: _Optional[str] = ..., evaluation_window: _Optional[str] = ..., data_version: _Optional[str] = ..., display_name: _Optional[str] = ...) -> None: ...

class BeginImportResponse(_message.Message):
    __slots__ = ("import_id", "checkpoint_id", "run_id", "uploads")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    checkpoint_id: str
    run_id: str
    uploads: _containers.RepeatedCompositeFieldContainer[_checkpoint_pb2.TransferURL]
    def __init__(self, import_id: _Optional[str] = ..., checkpoint_id: _Optional[str] = ..., run_id: _Optional[str] = ..., uploads: _Optional[_Iterable[_Union[_checkpoint_pb2.TransferURL, _Mapping]]] = ...) -> None: ...

class CommitImportRequest(_message.Message):
    __slots__ = ("import_id", "request_id")
    IMPORT_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    import_id: str
    request_id: str
    def __init__(self, import_id: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class CommitImportResponse(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: _model_service_pb2.ModelVersion
    def __init__(self, version: _Optional[_Union[_model_service_pb2.ModelVersion, _Mapping]] = ...) -> None: ...
