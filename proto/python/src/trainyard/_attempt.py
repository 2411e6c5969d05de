"""One attempt of a job, seen from the training script."""

import json
import os
import shutil
import signal
import sys
import threading

from . import _weights


def attempt(*, batch_size=0, gradient_accumulation=1, params=None, output="trainyard-output", resume=False):
    """Begin the attempt that this process runs for; use it in a with statement.

    batch_size and gradient_accumulation hold where Trainyard decides nothing. params are recorded once and never change within
    a job. output (a directory) and resume only matter outside Trainyard.
    """
    return Attempt(os.environ, batch_size, gradient_accumulation, params or {}, output, resume)


class Attempt:
    """What the scheduler decided, and where the results go. Safe to use from several threads."""

    def __init__(self, environ, batch_size, gradient_accumulation, params, output, resume):
        def number(name, otherwise, kind=int):
            return kind(environ.get("TRAINYARD_" + name) or otherwise)

        #: True inside a job of Trainyard.
        self.managed = "TRAINYARD_OUTPUT_DIR" in environ
        #: Id of the job; empty outside.
        self.job_id = environ.get("TRAINYARD_JOB_ID", "")
        #: 1 for a job's first attempt.
        self.number = number("ATTEMPT", 1)
        #: Samples per pass.
        self.batch_size = number("BATCH_SIZE", batch_size)
        #: Passes that are added up before one optimiser step.
        self.gradient_accumulation = number("GRADIENT_ACCUMULATION", gradient_accumulation)
        #: Multiply the learning rate by this; below 1 after a divergence.
        self.learning_rate_scale = number("LEARNING_RATE_SCALE", 1.0, float)
        #: Ids of the devices of this attempt.
        self.devices = [d for d in environ.get("TRAINYARD_DEVICES", "").split(",") if d]
        #: Rank among the processes that torchrun started; only rank 0 reports and saves.
        self.rank = int(environ.get("RANK") or 0)
        #: Directory of the checkpoint to resume from; None on a fresh start.
        self.restore_path = environ.get("TRAINYARD_RESTORE_PATH") or None
        self._output = environ.get("TRAINYARD_OUTPUT_DIR") or os.path.abspath(output)
        self._control = environ.get("TRAINYARD_CONTROL_FILE")
        self._environ, self._params = environ, params
        self._lock = threading.RLock()
        self._lines = None
        self._signalled = threading.Event()
        self._former = None
        self._orders, self._orders_read = {}, None
        self._saves_done, self._saved = 0, {}
        if not self.managed and resume:
            self.restore_path = self._newest()

    # ---- life ----

    def __enter__(self):
        if self.rank == 0:
            os.makedirs(os.path.join(self._output, "checkpoints"), exist_ok=True)
            os.makedirs(self.artifacts, exist_ok=True)
            self._lines = self._open_lines()
        # A stop comes with SIGTERM, whose default would end the script before it could save.
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(signal.SIGTERM, lambda *_: self._signalled.set())
        if self._params:
            self._write({"params": {k: str(v) for k, v in self._params.items()}})
        return self

    def __exit__(self, *_):
        if self._former is not None:
            signal.signal(signal.SIGTERM, self._former)
        with self._lock:
            if self._lines is not None:
                self._lines.close()
                self._lines = None

    # ---- what was decided ----

    @property
    def device(self):
        """torch's name of the device: "cuda" when the attempt has GPUs, else "cpu"."""
        if self.managed:
            return "cuda" if self._environ.get("CUDA_VISIBLE_DEVICES") else "cpu"
        torch = sys.modules.get("torch")
        return "cuda" if torch is not None and torch.cuda.is_available() else "cpu"

    @property
    def should_stop(self):
        """True once the attempt was told to end: save and leave, the grace is running."""
        return self._signalled.is_set() or bool(self._read_orders().get("stop"))

    @property
    def should_save(self):
        """True when somebody asked for a checkpoint since the last save."""
        return self.should_stop or self._read_orders().get("checkpoint_requests", 0) > self._saves_done

    @property
    def artifacts(self):
        """Directory whose files are kept with the run when the script ends."""
        return os.path.join(self._output, "artifacts")

    # ---- what comes out ----

    def log(self, step, metrics=None, /, *, epoch=None, total_epochs=None, objective=None, **more):
        """Record metrics at a step. epoch, total_epochs and objective (to be maximised) are also shown as the job's progress."""
        line = {"step": int(step)}
        for name, value in (("epoch", epoch), ("total_epochs", total_epochs)):
            if value is not None:
                line[name] = int(value)
        if objective is not None:
            line["objective"] = float(objective)
        values = {k: float(v) for k, v in {**(metrics or {}), **more}.items()}
        if values:
            line["metrics"] = values
        self._write(line)

    def save(self, state, step, metrics=None, /, *, resumable=True, **more):
        """Publish a checkpoint and return its directory (None on another rank than 0).

        state is a dictionary of numpy arrays, anything that torch.save takes, or the path of a file or directory. A checkpoint is
        seen whole or not at all. resumable=False says that it is for serving only.
        """
        if self.rank != 0:
            return None
        values = {k: float(v) for k, v in {**(metrics or {}), **more}.items()}
        if "sharpe" in values:
            values["validation/sharpe"] = values.pop("sharpe")
        with self._lock:
            asked = self._read_orders().get("checkpoint_requests", 0)
            root = os.path.join(self._output, "checkpoints")
            # A name is picked up once: saving a step again needs another.
            again = self._saved[step] = self._saved.get(step, 0) + 1
            final = os.path.join(root, f"step-{int(step):012d}" + (f"-{again}" if again > 1 else ""))
            draft = os.path.join(root, f".step-{int(step)}")
            for path in (draft, final):
                shutil.rmtree(path, ignore_errors=True)
            os.makedirs(draft)
            try:
                _weights.write(state, draft)
                with open(os.path.join(draft, "trainyard.json"), "w", encoding="utf-8") as f:
                    json.dump({"step": int(step), "metrics": _finite(values), "resumable": bool(resumable)}, f)
                os.rename(draft, final)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
            self._saves_done = asked
        if not self.managed:
            print(f"step {int(step)}: saved {final}", flush=True)
        return final

    def restore(self, map_location="cpu"):
        """Load the checkpoint to resume from: what save was given, or its directory when it was given files; None without one."""
        return None if self.restore_path is None else _weights.read(self.restore_path, map_location)

    # ---- below ----

    def _open_lines(self):
        """Where JSON lines go: the inherited descriptor, or the file where a launcher such as torchrun closed it, or nowhere."""
        descriptor, path = self._environ.get("TRAINYARD_METRICS_FD"), self._environ.get("TRAINYARD_METRICS_FILE")
        if descriptor:
            try:
                return os.fdopen(os.dup(int(descriptor)), "w", encoding="utf-8")
            except OSError:
                pass  # closed on the way here
        if path:
            return open(path, "a", encoding="utf-8")
        if self.managed:
            print("trainyard: the metrics descriptor was closed by the launcher of this process: metrics are lost", file=sys.stderr)
        return None

    def _write(self, line):
        if self.rank != 0:
            return
        with self._lock:
            if self._lines is not None:
                self._lines.write(json.dumps(line) + "\n")
                self._lines.flush()
                return
        if not self.managed:
            shown = {**line.get("params", {}), **line.get("metrics", {})}
            prefix = f"step {line['step']}: " if "step" in line else ""
            text = "  ".join(f"{k} {v:.6g}" if isinstance(v, float) else f"{k} {v}" for k, v in shown.items())
            print(prefix + text, flush=True)

    def _read_orders(self):
        """The control file, read again only when it was replaced: this is asked at every step."""
        if not self._control:
            return self._orders
        try:
            info = os.stat(self._control)
            stamp = (info.st_ino, info.st_mtime_ns)
            if stamp != self._orders_read:
                with open(self._control, encoding="utf-8") as f:
                    self._orders, self._orders_read = json.load(f), stamp
        except (OSError, ValueError):
            pass  # between two versions: the last one holds
        return self._orders

    def _newest(self):
        root = os.path.join(self._output, "checkpoints")
        try:
            names = sorted(n for n in os.listdir(root) if n.startswith("step-"))
        except FileNotFoundError:
            return None
        return os.path.join(root, names[-1]) if names else None


def _finite(values):
    """NaN and infinities have no JSON; a checkpoint cannot be ranked by them anyway."""
    return {k: v for k, v in values.items() if v == v and abs(v) != float("inf")}
