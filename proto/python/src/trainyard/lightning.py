"""A callback for PyTorch Lightning 2: Trainer(callbacks=[Callback(t)])."""

from lightning.pytorch.callbacks import Callback as _Callback


class Callback(_Callback):
    """Logs every metric that Lightning logs, saves after each validation and when asked, stops when told to.

    objective names the logged metric to maximise, shown as the job's progress. Checkpoints are ranked by validation/sharpe, where
    the module logs it under that name.
    """

    def __init__(self, attempt, objective=None, every_n_steps=50):
        self._t, self._objective, self._every = attempt, objective, every_n_steps
        self._optimizers = []

    def on_fit_start(self, trainer, module):
        state = self._t.restore()
        if state is not None:
            module.load_state_dict(state["model"])
            self._optimizers = state["optimizers"]

    def on_train_start(self, trainer, module):
        for optimizer, state in zip(trainer.optimizers, self._optimizers):
            optimizer.load_state_dict(state)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step % self._every == 0:
            self._log(trainer)
        if self._t.should_stop:
            trainer.should_stop = True
        if self._t.should_save:
            self._save(trainer, module)

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self._log(trainer)
            self._save(trainer, module)

    def _log(self, trainer):
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        self._t.log(trainer.global_step, metrics, epoch=trainer.current_epoch, total_epochs=max(trainer.max_epochs or 0, 0),
                    objective=metrics.get(self._objective))

    def _save(self, trainer, module):
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items()}
        state = {"model": module.state_dict(), "optimizers": [o.state_dict() for o in trainer.optimizers]}
        self._t.save(state, trainer.global_step, metrics)
