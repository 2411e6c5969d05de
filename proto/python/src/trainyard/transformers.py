"""A callback for Hugging Face's Trainer: Trainer(..., callbacks=[Callback(t)])."""

from transformers import TrainerCallback


class Callback(TrainerCallback):
    """Logs what the Trainer logs, saves when it evaluates and when asked, stops when told to."""

    def __init__(self, attempt):
        self._t = attempt

    def on_train_begin(self, args, state, control, model=None, optimizer=None, lr_scheduler=None, **_):
        saved = self._t.restore()
        if saved is not None:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            lr_scheduler.load_state_dict(saved["scheduler"])

    def on_log(self, args, state, control, logs=None, **_):
        values = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float))}
        self._t.log(state.global_step, values, epoch=int(state.epoch or 0), total_epochs=int(args.num_train_epochs))

    def on_step_end(self, args, state, control, **kwargs):
        if self._t.should_save:
            self._save(state, **kwargs)
        if self._t.should_stop:
            control.should_training_stop = True

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        self._save(state, {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))}, **kwargs)

    def _save(self, state, metrics=None, model=None, optimizer=None, lr_scheduler=None, **_):
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": lr_scheduler.state_dict()}
        self._t.save(saved, state.global_step, metrics or {})
