"""Trainyard for training scripts: batch size in, metrics and checkpoints out.

    with trainyard.attempt() as t:
        ...

The generated gRPC stubs (package trainyard-proto) share this package's name; both can be installed.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)

from ._attempt import Attempt, attempt  # noqa: E402  (after __path__, so that stubs beside us are found)

__all__ = ["Attempt", "attempt"]
