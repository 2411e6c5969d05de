"""The callbacks in the real frameworks; each is skipped where its framework is not installed."""

import contextlib
import importlib.util
import io
import os
import pathlib
import sys
import tempfile
import unittest
from unittest import mock

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "src"))

import trainyard  # noqa: E402


def needs(module):
    return unittest.skipUnless(importlib.util.find_spec(module), f"{module} is not installed")


class Frameworks(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.dir = scratch.name
        self.out = io.StringIO()
        os.chdir(self.dir)
        self.addCleanup(os.chdir, pathlib.Path(__file__).parent)
        stack = contextlib.ExitStack()
        self.addCleanup(stack.close)
        environ = {k: v for k, v in os.environ.items() if not k.startswith("TRAINYARD_")}
        stack.enter_context(mock.patch.dict(os.environ, environ, clear=True))
        stack.enter_context(contextlib.redirect_stdout(self.out))

    def attempt(self, resume=False):
        return trainyard.attempt(output=os.path.join(self.dir, "out"), resume=resume)

    def checkpoints(self):
        return sorted(os.listdir(os.path.join(self.dir, "out", "checkpoints")))

    @needs("lightning")
    def test_lightning(self):
        import torch
        from lightning.pytorch import LightningModule, Trainer

        from trainyard.lightning import Callback

        class Module(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(4, 1)

            def training_step(self, batch, _):
                loss = self.layer(batch[0]).square().mean()
                self.log("train/loss", loss)
                return loss

            def validation_step(self, batch, _):
                self.log("validation/sharpe", self.layer(batch[0]).mean())

            def configure_optimizers(self):
                return torch.optim.Adam(self.parameters())

        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(8, 4)), batch_size=4)

        def fit(attempt, module):
            trainer = Trainer(
                max_epochs=2, callbacks=[Callback(attempt, objective="validation/sharpe", every_n_steps=1)], logger=False,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, accelerator="cpu",
            )  # fmt: skip
            trainer.fit(module, data, data)
            return trainer

        first = Module()
        with self.attempt() as t:
            fit(t, first)
        self.assertEqual(self.checkpoints(), ["step-000000000002", "step-000000000004"])
        self.assertIn("train/loss", self.out.getvalue())
        second = Module()
        with self.attempt(resume=True) as t:
            t._signalled.set()
            trainer = fit(t, second)
        self.assertEqual(trainer.global_step, 1)  # told to stop: one batch, then out
        torch.testing.assert_close(second.layer.weight, first.layer.weight, atol=2e-3, rtol=0)

    @needs("stable_baselines3")
    def test_stable_baselines3(self):
        from stable_baselines3 import PPO

        from trainyard.stable_baselines3 import Callback

        with self.attempt() as t:
            model = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=1)
            model.learn(256, callback=Callback(t, save_every=128, evaluate=lambda m: {"validation/sharpe": 1.5}))
        self.assertEqual(self.checkpoints()[-1], "step-000000000256")
        self.assertIn("rollout/ep_rew_mean", self.out.getvalue())
        with self.attempt(resume=True) as t:
            again = PPO("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=64, n_epochs=1, device="cpu", seed=2)
            t._signalled.set()
            again.learn(64, callback=Callback(t))
        ours, theirs = again.get_parameters()["policy"], model.get_parameters()["policy"]
        self.assertTrue(all((ours[k] == theirs[k]).all() for k in theirs))

    @needs("transformers")
    def test_transformers(self):
        import torch
        from transformers import Trainer, TrainingArguments

        from trainyard.transformers import Callback

        class Model(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(4, 1)

            def forward(self, x):
                return {"loss": self.layer(x).square().mean()}

        data = [{"x": torch.ones(4)} for _ in range(8)]

        def train(attempt, model):
            arguments = TrainingArguments(
                output_dir=self.dir, per_device_train_batch_size=4, num_train_epochs=2, logging_steps=1, eval_strategy="epoch",
                report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, prediction_loss_only=True,
            )  # fmt: skip
            trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data, callbacks=[Callback(attempt)])
            trainer.train()
            return trainer

        first = Model()
        with self.attempt() as t:
            train(t, first)
        self.assertEqual(self.checkpoints(), ["step-000000000002", "step-000000000004"])
        self.assertIn("loss", self.out.getvalue())
        second = Model()
        with self.attempt(resume=True) as t:
            t._signalled.set()
            trainer = train(t, second)
        self.assertEqual(trainer.state.global_step, 1)
        torch.testing.assert_close(second.layer.weight, first.layer.weight, atol=2e-3, rtol=0)


if __name__ == "__main__":
    unittest.main()
