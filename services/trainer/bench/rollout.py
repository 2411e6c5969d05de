"""Environments with the policy's forward pass, in Stable-Baselines3 and in plain numpy with PyTorch: steps per processor second, as JSON.

python rollout.py HISTORY.csv [seconds]
"""
import json, os, sys, time

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "..", "tools", "examples"))
import gymnasium
import numpy as np
import specialist
import stable_baselines3
import torch
from stable_baselines3.common.vec_env import VecEnv

torch.set_num_threads(1)
seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 3
world = specialist.World(specialist.from_csv(sys.argv[1]), 2)
N, STEPS = 128, 64


class Vec(VecEnv):
    """All environments in one numpy step: the fastest form that Stable-Baselines3 takes."""

    def __init__(self):
        super().__init__(N, gymnasium.spaces.Box(-np.inf, np.inf, (specialist.WIDTH,), np.float32), gymnasium.spaces.Discrete(3))
        self.envs = specialist.Envs.random(world, N, np.random.default_rng(1))
        self.infos = [{} for _ in range(N)]

    def reset(self):
        return self.envs.observe()

    def step_async(self, actions):
        self.actions = actions

    def step_wait(self):
        rewards, _, _, dones = self.envs.step(self.actions)
        obs = self.envs.observe()
        for i in np.flatnonzero(dones):
            self.infos[i] = {"terminal_observation": obs[i]}
        return obs, rewards.astype(np.float32), dones, self.infos

    def close(self):
        pass

    def get_attr(self, name, indices=None):
        return [None] * N

    def set_attr(self, name, value, indices=None):
        pass

    def env_method(self, *args, indices=None, **kwargs):
        return [None] * N

    def env_is_wrapped(self, wrapper, indices=None):
        return [False] * N


def measure(step):
    step()
    began, clock, n = time.process_time(), time.perf_counter(), 0
    while time.perf_counter() - clock < seconds:
        step()
        n += N * STEPS
    return n / (time.process_time() - began)


model = stable_baselines3.PPO("MlpPolicy", Vec(), n_steps=STEPS, batch_size=2048, policy_kwargs={"net_arch": [128, 128]}, device="cpu")
_, callback = model._setup_learn(10**9)
net, envs = specialist.Net(), specialist.Envs.random(world, N, np.random.default_rng(1))


@torch.no_grad()
def plain():
    for _ in range(STEPS):
        x = envs.observe()
        logits, _ = net(torch.from_numpy(x))
        chosen = torch.distributions.Categorical(logits=logits)
        a = chosen.sample()
        chosen.log_prob(a)
        envs.step(a.numpy())


print(json.dumps({
    "version": stable_baselines3.__version__,
    "sb3": measure(lambda: model.collect_rollouts(model.env, callback, model.rollout_buffer, STEPS)),
    "numpy": measure(plain),
}))
