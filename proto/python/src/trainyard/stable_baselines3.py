"""A callback for Stable-Baselines3: model.learn(..., callback=Callback(t))."""

from stable_baselines3.common.callbacks import BaseCallback


class Callback(BaseCallback):
    """Logs what SB3's logger has after each rollout, saves at the first rollout after save_every steps, when asked and at the end, stops when told to.

    evaluate(model) returns metrics for a checkpoint, such as {"validation/sharpe": 1.2}.
    """

    def __init__(self, attempt, save_every=10_000, evaluate=None):
        super().__init__()
        self._t, self._every, self._evaluate, self._saved = attempt, save_every, evaluate, 0

    def _on_training_start(self):
        parameters = self._t.restore()
        if parameters is not None:
            self.model.set_parameters(parameters)

    def _on_step(self):
        return not self._t.should_stop

    def _on_rollout_start(self):
        # Between two rollouts, so that a checkpoint has the update that belongs to its steps.
        if self.num_timesteps - self._saved >= self._every or self._t.should_save and self.num_timesteps > self._saved:
            self._save()

    def _on_rollout_end(self):
        # ep_info_buffer is filled by SB3's Monitor; the logger's values are those of the update before.
        values = {k: v for k, v in self.logger.name_to_value.items() if isinstance(v, (int, float))}
        if self.model.ep_info_buffer:
            values["rollout/ep_rew_mean"] = sum(e["r"] for e in self.model.ep_info_buffer) / len(self.model.ep_info_buffer)
        self._t.log(self.num_timesteps, values)

    def _on_training_end(self):
        self._save()

    def _save(self):
        metrics = self._evaluate(self.model) if self._evaluate else {}
        self._t.save(self.model.get_parameters(), self.num_timesteps, metrics)
        self._saved = self.num_timesteps
