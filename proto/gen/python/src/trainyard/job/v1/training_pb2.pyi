from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WalkForward(_message.Message):
    __slots__ = ("validation_fraction", "test_fraction", "embargo_bars", "folds", "fold")
    VALIDATION_FRACTION_FIELD_NUMBER: _ClassVar[int]
    TEST_FRACTION_FIELD_NUMBER: _ClassVar[int]
    EMBARGO_BARS_FIELD_NUMBER: _ClassVar[int]
    FOLDS_FIELD_NUMBER: _ClassVar[int]
    FOLD_FIELD_NUMBER: _ClassVar[int]
    validation_fraction: float
    test_fraction: float
    embargo_bars: int
    folds: int
    fold: int
    def __init__(self, validation_fraction: _Optional[float] = ..., test_fraction: _Optional[float] = ..., embargo_bars: _Optional[int] = ..., folds: _Optional[int] = ..., fold: _Optional[int] = ...) -> None: ...

class RewardParameters(_message.Message):
    __slots__ = ("risk_aversion", "drawdown_penalty", "turnover_penalty_bps", "decay")
    RISK_AVERSION_FIELD_NUMBER: _ClassVar[int]
    DRAWDOWN_PENALTY_FIELD_NUMBER: _ClassVar[int]
    TURNOVER_PENALTY_BPS_FIELD_NUMBER: _ClassVar[int]
    DECAY_FIELD_NUMBER: _ClassVar[int]
    risk_aversion: float
    drawdown_penalty: float
    turnover_penalty_bps: float
    decay: float
    def __init__(self, risk_aversion: _Optional[float] = ..., drawdown_penalty: _Optional[float] = ..., turnover_penalty_bps: _Optional[float] = ..., decay: _Optional[float] = ...) -> None: ...
