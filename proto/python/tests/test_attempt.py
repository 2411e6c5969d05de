"""The attempt as a training script sees it: inside a job, outside, and where things go wrong."""

import contextlib
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "src"))

import trainyard  # noqa: E402


class Case(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = pathlib.Path(scratch.name)
        self.weights = self.dir / "weights.bin"
        self.weights.write_bytes(b"weights")

    def job(self, **more):
        """The environment that the command runtime gives a program."""
        control = self.dir / "control.json"
        control.write_text('{"stop": false, "checkpoint_requests": 0}')
        reader, writer = os.pipe()
        self.addCleanup(os.close, reader)
        self.addCleanup(os.close, writer)
        self.reader = reader
        names = {
            "OUTPUT_DIR": self.dir / "output", "JOB_ID": "j", "ATTEMPT": 2, "BATCH_SIZE": 64, "GRADIENT_ACCUMULATION": 4,
            "LEARNING_RATE_SCALE": 0.5, "DEVICES": "cpu:0,cpu:1", "METRICS_FD": writer, "CONTROL_FILE": control, **more,
        }  # fmt: skip
        environ = {"TRAINYARD_" + k: str(v) for k, v in names.items() if v is not None}
        return mock.patch.dict(os.environ, environ, clear=True)

    def lines(self):
        os.set_blocking(self.reader, False)
        try:
            text = os.read(self.reader, 1 << 16).decode()
        except BlockingIOError:
            text = ""
        return [json.loads(line) for line in text.splitlines()]

    def order(self, **what):
        """Replaces the control file as the trainer does."""
        draft = self.dir / "control.json.tmp"
        draft.write_text(json.dumps({"stop": False, "checkpoint_requests": 0, **what}))
        draft.rename(self.dir / "control.json")


class InAJob(Case):
    def test_the_scheduler_decides(self):
        with self.job(), trainyard.attempt(batch_size=256, gradient_accumulation=1) as t:
            self.assertEqual((t.batch_size, t.gradient_accumulation, t.learning_rate_scale), (64, 4, 0.5))
            self.assertEqual((t.number, t.devices, t.device), (2, ["cpu:0", "cpu:1"], "cpu"))

    def test_metrics_go_out_as_lines(self):
        with self.job(), trainyard.attempt(params={"lr": 3e-4}) as t:
            t.log(7, {"train/loss": 0.25}, accuracy=float("nan"), epoch=1, total_epochs=3, objective=1.5)
        params, line = self.lines()
        self.assertEqual(params, {"params": {"lr": "0.0003"}})
        self.assertEqual((line["step"], line["epoch"], line["total_epochs"], line["objective"]), (7, 1, 3, 1.5))
        self.assertEqual(line["metrics"]["train/loss"], 0.25)
        self.assertNotEqual(line["metrics"]["accuracy"], line["metrics"]["accuracy"])

    def test_lines_go_to_the_file_where_a_launcher_closed_the_descriptor(self):
        path = self.dir / "metrics.jsonl"
        with self.job(METRICS_FD=987, METRICS_FILE=path), trainyard.attempt() as t:
            t.log(1, loss=2)
        self.assertEqual(json.loads(path.read_text()), {"step": 1, "metrics": {"loss": 2.0}})

    def test_a_lost_descriptor_is_said_once_and_harms_nothing(self):
        errors = io.StringIO()
        with self.job(METRICS_FD=987), contextlib.redirect_stderr(errors), trainyard.attempt() as t:
            t.log(1, loss=2)
            t.log(2, loss=1)
        self.assertEqual(errors.getvalue().count("metrics are lost"), 1)

    def test_a_checkpoint_is_whole_and_ranked_by_finite_figures(self):
        with self.job(), trainyard.attempt() as t:
            where = pathlib.Path(t.save(self.weights, 12, {"validation/return": float("inf")}, sharpe=1.25, resumable=False))
        self.assertEqual(where.parent, self.dir / "output" / "checkpoints")
        self.assertEqual((where / "weights.bin").read_bytes(), b"weights")
        manifest = json.loads((where / "trainyard.json").read_text())
        self.assertEqual(manifest, {"step": 12, "metrics": {"validation/sharpe": 1.25}, "resumable": False})

    def test_a_step_that_is_saved_again_is_another_checkpoint(self):
        with self.job(), trainyard.attempt() as t:
            first, second = t.save(self.weights, 5), t.save(self.weights, 5)
        self.assertNotEqual(first, second)
        self.assertLess(first, second)

    def test_a_failed_save_leaves_nothing(self):
        with self.job(), trainyard.attempt() as t:
            with self.assertRaisesRegex(TypeError, "give a dictionary of numpy arrays"):
                t.save({"weights": [1, 2]}, 3)
        self.assertEqual(os.listdir(self.dir / "output" / "checkpoints"), [])

    def test_a_stop_is_seen_in_the_control_file(self):
        with self.job(), trainyard.attempt() as t:
            self.assertFalse(t.should_stop or t.should_save)
            self.order(stop=True)
            self.assertTrue(t.should_stop and t.should_save)

    def test_a_requested_checkpoint_is_asked_for_until_it_is_saved(self):
        with self.job(), trainyard.attempt() as t:
            self.order(checkpoint_requests=1)
            self.assertTrue(t.should_save)
            self.assertFalse(t.should_stop)
            t.save(self.weights, 1)
            self.assertFalse(t.should_save)

    def test_sigterm_lets_the_script_save(self):
        former = signal.getsignal(signal.SIGTERM)
        with self.job(), trainyard.attempt() as t:
            os.kill(os.getpid(), signal.SIGTERM)
            self.assertTrue(t.should_stop)
        self.assertIs(signal.getsignal(signal.SIGTERM), former)

    def test_only_rank_0_reports(self):
        with self.job(), mock.patch.dict(os.environ, {"RANK": "1"}), trainyard.attempt() as t:
            t.log(1, loss=1)
            self.assertIsNone(t.save(self.weights, 1))
        self.assertEqual(self.lines(), [])

    def test_restore_gives_back_a_directory_of_files(self):
        with self.job(RESTORE_PATH=self.dir), trainyard.attempt() as t:
            self.assertEqual(t.restore(), str(self.dir))


class Outside(Case):
    def test_it_prints_and_saves_and_resumes(self):
        out = io.StringIO()
        with mock.patch.dict(os.environ, {}, clear=True), contextlib.redirect_stdout(out):
            with trainyard.attempt(batch_size=8, output=str(self.dir / "out")) as t:
                self.assertEqual((t.batch_size, t.gradient_accumulation, t.managed), (8, 1, False))
                self.assertIsNone(t.restore())
                t.log(1, loss=0.5)
                for step in (9, 10):
                    t.save(self.weights, step)
            with trainyard.attempt(output=str(self.dir / "out"), resume=True) as t:
                self.assertTrue(t.restore().endswith("step-000000000010"))
        self.assertIn("step 1: loss 0.5\n", out.getvalue())
        self.assertIn("step 10: saved", out.getvalue())


class Weights(Case):
    def test_arrays_survive_as_safetensors(self):
        try:
            import numpy
        except ImportError:
            self.skipTest("numpy is not installed")
        state = {
            "w": numpy.arange(6, dtype=numpy.float32).reshape(2, 3).T, "step": numpy.int64(4), "h": numpy.array([6e-8], numpy.float16),
            "empty": numpy.zeros((0, 3)), "big_endian": numpy.array([1.5], ">f8"),
        }  # fmt: skip
        with self.job(), trainyard.attempt() as t:
            where = t.save(state, 1)
        with self.job(RESTORE_PATH=where), trainyard.attempt() as t:
            back = t.restore()
        self.assertEqual(sorted(back), sorted(state))
        for name, value in state.items():
            numpy.testing.assert_array_equal(back[name], value)
            self.assertEqual(back[name].shape, numpy.shape(value))
        back["w"][0, 0] = 7  # a restored array can be trained on

    def test_tensors_survive_in_torchs_format(self):
        try:
            import torch
        except ImportError:
            self.skipTest("torch is not installed")
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.Adam(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        with self.job(), trainyard.attempt() as t:
            where = t.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": 3}, 3)
        with self.job(RESTORE_PATH=where), trainyard.attempt() as t:
            back = t.restore()
        self.assertEqual(back["step"], 3)
        torch.testing.assert_close(back["model"]["weight"], model.weight.data)
        self.assertEqual(back["optimizer"]["state"][0]["step"], 1)


class Stubs(Case):
    def test_the_generated_stubs_are_found_beside_us(self):
        generated = pathlib.Path(__file__).parents[2] / "gen" / "python" / "src"
        import importlib

        self.addCleanup(sys.path.remove, str(generated))
        sys.path.insert(0, str(generated))
        for name in [n for n in sys.modules if n == "trainyard" or n.startswith("trainyard.")]:
            del sys.modules[name]
        package = importlib.import_module("trainyard")
        self.assertTrue(callable(package.attempt))
        self.assertIn(str(generated / "trainyard"), list(package.__path__))


if __name__ == "__main__":
    unittest.main()
