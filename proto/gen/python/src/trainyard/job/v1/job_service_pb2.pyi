from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from trainyard.job.v1 import job_pb2 as _job_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SubmitJobRequest(_message.Message):
    __slots__ = ("request_id", "spec", "validate_only")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    VALIDATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    spec: _job_pb2.JobSpec
    validate_only: bool
    def __init__(self, request_id: _Optional[str] = ..., spec: _Optional[_Union[_job_pb2.JobSpec, _Mapping]] = ..., validate_only: bool = ...) -> None: ...

class SubmitJobResponse(_message.Message):
    __slots__ = ("job", "prediction", "predicted_start_time", "predicted_agent_name", "predicted_device_ids")
    JOB_FIELD_NUMBER: _ClassVar[int]
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_START_TIME_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    prediction: str
    predicted_start_time: _timestamp_pb2.Timestamp
    predicted_agent_name: str
    predicted_device_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., prediction: _Optional[str] = ..., predicted_start_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., predicted_agent_name: _Optional[str] = ..., predicted_device_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class GetJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class GetJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ListJobsRequest(_message.Message):
    __slots__ = ("states", "experiment_prefix", "page_size", "page_token", "array_id", "graph_id", "schedule_id", "tenant")
    STATES_FIELD_NUMBER: _ClassVar[int]
    EXPERIMENT_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ARRAY_ID_FIELD_NUMBER: _ClassVar[int]
    GRAPH_ID_FIELD_NUMBER: _ClassVar[int]
    SCHEDULE_ID_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedScalarFieldContainer[_job_pb2.Job.State]
    experiment_prefix: str
    page_size: int
    page_token: str
    array_id: str
    graph_id: str
    schedule_id: str
    tenant: str
    def __init__(self, states: _Optional[_Iterable[_Union[_job_pb2.Job.State, str]]] = ..., experiment_prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., array_id: _Optional[str] = ..., graph_id: _Optional[str] = ..., schedule_id: _Optional[str] = ..., tenant: _Optional[str] = ...) -> None: ...

class ListJobsResponse(_message.Message):
    __slots__ = ("jobs", "next_page_token")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    next_page_token: str
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class WatchJobsRequest(_message.Message):
    __slots__ = ("job_ids", "resume_token")
    JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    job_ids: _containers.RepeatedScalarFieldContainer[str]
    resume_token: str
    def __init__(self, job_ids: _Optional[_Iterable[str]] = ..., resume_token: _Optional[str] = ...) -> None: ...

class WatchJobsResponse(_message.Message):
    __slots__ = ("jobs", "resume_token", "complete")
    JOBS_FIELD_NUMBER: _ClassVar[int]
    RESUME_TOKEN_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    jobs: _containers.RepeatedCompositeFieldContainer[_job_pb2.Job]
    resume_token: str
    complete: bool
    def __init__(self, jobs: _Optional[_Iterable[_Union[_job_pb2.Job, _Mapping]]] = ..., resume_token: _Optional[str] = ..., complete: bool = ...) -> None: ...

class CancelJobRequest(_message.Message):
    __slots__ = ("request_id", "job_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., job_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class CancelJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class PauseJobRequest(_message.Message):
    __slots__ = ("request_id", "job_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., job_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PauseJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ResumeJobRequest(_message.Message):
    __slots__ = ("request_id", "job_id")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job_id: str
    def __init__(self, request_id: _Optional[str] = ..., job_id: _Optional[str] = ...) -> None: ...

class ResumeJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ReprioritizeJobRequest(_message.Message):
    __slots__ = ("request_id", "job_id", "priority_class", "etag")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_CLASS_FIELD_NUMBER: _ClassVar[int]
    ETAG_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    job_id: str
    priority_class: _job_pb2.PriorityClass
    etag: str
    def __init__(self, request_id: _Optional[str] = ..., job_id: _Optional[str] = ..., priority_class: _Optional[_Union[_job_pb2.PriorityClass, str]] = ..., etag: _Optional[str] = ...) -> None: ...

class ReprioritizeJobResponse(_message.Message):
    __slots__ = ("job",)
    JOB_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ...) -> None: ...

class ExplainJobRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class ExplainJobResponse(_message.Message):
    __slots__ = ("job", "summary", "ahead_job_ids", "ahead_count", "hosts", "estimated_wait", "decisions", "explain_time")
    class HostVerdict(_message.Message):
        __slots__ = ("agent_name", "fits", "reason")
        AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
        FITS_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        agent_name: str
        fits: bool
        reason: str
        def __init__(self, agent_name: _Optional[str] = ..., fits: bool = ..., reason: _Optional[str] = ...) -> None: ...
    JOB_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    AHEAD_JOB_IDS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    ESTIMATED_WAIT_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_TIME_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    summary: str
    ahead_job_ids: _containers.RepeatedScalarFieldContainer[str]
    ahead_count: int
    hosts: _containers.RepeatedCompositeFieldContainer[ExplainJobResponse.HostVerdict]
    estimated_wait: _duration_pb2.Duration
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    explain_time: _timestamp_pb2.Timestamp
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., summary: _Optional[str] = ..., ahead_job_ids: _Optional[_Iterable[str]] = ..., ahead_count: _Optional[int] = ..., hosts: _Optional[_Iterable[_Union[ExplainJobResponse.HostVerdict, _Mapping]]] = ..., estimated_wait: _Optional[_Union[_duration_pb2.Duration, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ..., explain_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("time", "action", "reason", "attempt")
    TIME_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    time: _timestamp_pb2.Timestamp
    action: str
    reason: str
    attempt: int
    def __init__(self, time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., action: _Optional[str] = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ExplainPlacementRequest(_message.Message):
    __slots__ = ("job_id", "attempt")
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    attempt: int
    def __init__(self, job_id: _Optional[str] = ..., attempt: _Optional[int] = ...) -> None: ...

class ExplainPlacementResponse(_message.Message):
    __slots__ = ("attempt", "summary", "candidates", "ahead_count", "snapshot_id", "decision_time")
    class DeviceScore(_message.Message):
        __slots__ = ("device_id", "chosen", "score", "waste_after")
        DEVICE_ID_FIELD_NUMBER: _ClassVar[int]
        CHOSEN_FIELD_NUMBER: _ClassVar[int]
        SCORE_FIELD_NUMBER: _ClassVar[int]
        WASTE_AFTER_FIELD_NUMBER: _ClassVar[int]
        device_id: str
        chosen: bool
        score: int
        waste_after: float
        def __init__(self, device_id: _Optional[str] = ..., chosen: bool = ..., score: _Optional[int] = ..., waste_after: _Optional[float] = ...) -> None: ...
    class Candidate(_message.Message):
        __slots__ = ("agent_name", "fitted", "chosen", "reason", "device_ids", "rank", "guard", "pressure", "score", "waste_before", "waste_after", "devices")
        AGENT_NAME_FIELD_NUMBER: _ClassVar[int]
        FITTED_FIELD_NUMBER: _ClassVar[int]
        CHOSEN_FIELD_NUMBER: _ClassVar[int]
        REASON_FIELD_NUMBER: _ClassVar[int]
        DEVICE_IDS_FIELD_NUMBER: _ClassVar[int]
        RANK_FIELD_NUMBER: _ClassVar[int]
        GUARD_FIELD_NUMBER: _ClassVar[int]
        PRESSURE_FIELD_NUMBER: _ClassVar[int]
        SCORE_FIELD_NUMBER: _ClassVar[int]
        WASTE_BEFORE_FIELD_NUMBER: _ClassVar[int]
        WASTE_AFTER_FIELD_NUMBER: _ClassVar[int]
        DEVICES_FIELD_NUMBER: _ClassVar[int]
        agent_name: str
        fitted: bool
        chosen: bool
        reason: str
        device_ids: _containers.RepeatedScalarFieldContainer[str]
        rank: int
        guard: int
        pressure: float
        score: int
        waste_before: float
        waste_after: float
        devices: _containers.RepeatedCompositeFieldContainer[ExplainPlacementResponse.DeviceScore]
        def __init__(self, agent_name: _Optional[str] = ..., fitted: bool = ..., chosen: bool = ..., reason: _Optional[str] = ..., device_ids: _Optional[_Iterable[str]] = ..., rank: _Optional[int] = ..., guard: _Optional[int] = ..., pressure: _Optional[float] = ..., score: _Optional[int] = ..., waste_before: _Optional[float] = ..., waste_after: _Optional[float] = ..., devices: _Optional[_Iterable[_Union[ExplainPlacementResponse.DeviceScore, _Mapping]]] = ...) -> None: ...
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    AHEAD_COUNT_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    DECISION_TIME_FIELD_NUMBER: _ClassVar[int]
    attempt: _job_pb2.Attempt
    summary: str
    candidates: _containers.RepeatedCompositeFieldContainer[ExplainPlacementResponse.Candidate]
    ahead_count: int
    snapshot_id: int
    decision_time: _timestamp_pb2.Timestamp
    def __init__(self, attempt: _Optional[_Union[_job_pb2.Attempt, _Mapping]] = ..., summary: _Optional[str] = ..., candidates: _Optional[_Iterable[_Union[ExplainPlacementResponse.Candidate, _Mapping]]] = ..., ahead_count: _Optional[int] = ..., snapshot_id: _Optional[int] = ..., decision_time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class ListSnapshotsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListSnapshotsResponse(_message.Message):
    __slots__ = ("snapshots",)
    class Snapshot(_message.Message):
        __slots__ = ("snapshot_id", "time", "hosts", "queued", "placed", "preempted")
        SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
        TIME_FIELD_NUMBER: _ClassVar[int]
        HOSTS_FIELD_NUMBER: _ClassVar[int]
        QUEUED_FIELD_NUMBER: _ClassVar[int]
        PLACED_FIELD_NUMBER: _ClassVar[int]
        PREEMPTED_FIELD_NUMBER: _ClassVar[int]
        snapshot_id: int
        time: _timestamp_pb2.Timestamp
        hosts: int
        queued: int
        placed: int
        preempted: int
        def __init__(self, snapshot_id: _Optional[int] = ..., time: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., hosts: _Optional[int] = ..., queued: _Optional[int] = ..., placed: _Optional[int] = ..., preempted: _Optional[int] = ...) -> None: ...
    SNAPSHOTS_FIELD_NUMBER: _ClassVar[int]
    snapshots: _containers.RepeatedCompositeFieldContainer[ListSnapshotsResponse.Snapshot]
    def __init__(self, snapshots: _Optional[_Iterable[_Union[ListSnapshotsResponse.Snapshot, _Mapping]]] = ...) -> None: ...

class GetSnapshotRequest(_message.Message):
    __slots__ = ("snapshot_id", "job_id")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: int
    job_id: str
    def __init__(self, snapshot_id: _Optional[int] = ..., job_id: _Optional[str] = ...) -> None: ...

class GetSnapshotResponse(_message.Message):
    __slots__ = ("snapshot_id", "chunk")
    SNAPSHOT_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    snapshot_id: int
    chunk: bytes
    def __init__(self, snapshot_id: _Optional[int] = ..., chunk: _Optional[bytes] = ...) -> None: ...

class GetJobHistoryRequest(_message.Message):
    __slots__ = ("job_id",)
    JOB_ID_FIELD_NUMBER: _ClassVar[int]
    job_id: str
    def __init__(self, job_id: _Optional[str] = ...) -> None: ...

class JobHistory(_message.Message):
    __slots__ = ("job", "decisions")
    JOB_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    job: _job_pb2.Job
    decisions: _containers.RepeatedCompositeFieldContainer[Decision]
    def __init__(self, job: _Optional[_Union[_job_pb2.Job, _Mapping]] = ..., decisions: _Optional[_Iterable[_Union[Decision, _Mapping]]] = ...) -> None: ...

class GetJobHistoryResponse(_message.Message):
    __slots__ = ("history", "archive_file")
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    ARCHIVE_FILE_FIELD_NUMBER: _ClassVar[int]
    history: JobHistory
    archive_file: str
    def __init__(self, history: _Optional[_Union[JobHistory, _Mapping]] = ..., archive_file: _Optional[str] = ...) -> None: ...
