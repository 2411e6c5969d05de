"""Writes the fixtures of TestAgreesWithPyTorch: state dictionaries of the shapes that people have, beside NAME.json with
inputs and the outputs that PyTorch gives for them.

python networks.py    (in this folder, with torch and stable-baselines3: services/trainer/bench/setup)
"""
import json
import gymnasium
import numpy as np
import torch
from torch import nn

torch.manual_seed(5)
OBS, ROWS = 6, 5


def save(name, state, forward, *inputs):
    with torch.no_grad():
        logits, value = forward(*inputs)
    torch.save(state, name + ".pth")
    with open(name + ".json", "w") as f:
        json.dump({"x": [i.tolist() for i in inputs], "logits": logits.tolist(), "value": None if value is None else value.flatten().tolist()}, f)


def mlp(act, *widths):
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


x = torch.randn(ROWS, OBS)

# Actor and critic apart, of different depth.
net = nn.ModuleDict({"actor": mlp(nn.ReLU, OBS, 8, 7, 3), "critic": mlp(nn.ReLU, OBS, 5, 1)})
save("separate", {"model": net.state_dict()}, lambda x: (net["actor"](x), net["critic"](x)), x)

# A shared encoder with towers on it, as actor_critic.*.
body = nn.ModuleDict({"encoder": mlp(nn.ReLU, OBS, 9, 8), "actor": mlp(nn.ReLU, 8, 6, 3), "critic": mlp(nn.ReLU, 8, 4, 4, 1)})
wrapped = nn.ModuleDict({"actor_critic": body})


def both(x):
    h = torch.relu(body["encoder"](x))
    return body["actor"](h), body["critic"](h)


save("towers", wrapped.state_dict(), both, x)

# A policy alone, a Sequential under another prefix, in half precision.
half = nn.Sequential(nn.Linear(OBS, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).half()
state = {"module.net." + k: v for k, v in half.state_dict().items()}
half = half.float()
save("sequential", state, lambda x: (half(x), None), x)


# Stable-Baselines3 as it comes (tanh, separate), and with relu and a shared extractor of features.
class Env(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (OBS,), np.float32), gymnasium.spaces.Discrete(3)


def sb3(**kwargs):
    from stable_baselines3.common.policies import ActorCriticPolicy
    policy = ActorCriticPolicy(Env.observation_space, Env.action_space, lambda _: 1e-3, **kwargs)

    def forward(x):
        return policy.get_distribution(x).distribution.logits, policy.predict_values(x)

    def logits(x):
        pi, _ = policy.mlp_extractor(policy.extract_features(x))
        return policy.action_net(pi), forward(x)[1]

    return policy.state_dict(), logits


save("sb3_tanh", *sb3(net_arch=[8, 7]), x)
save("sb3_relu", *sb3(net_arch=dict(pi=[8], vf=[6, 5]), activation_fn=nn.ReLU), x)


# A convolution over the last bars, flattened and joined to the observation.
class Temporal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv1d(4, 16, 3, stride=2), nn.Linear(OBS + 16 * 3, 8)
        self.pi, self.vf = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x, past):
        h = torch.relu(self.fc(torch.cat([x, torch.relu(self.conv(past)).flatten(1)], 1)))
        return self.pi(h), self.vf(h)


t = Temporal()
save("temporal", t.state_dict(), t, x, torch.randn(ROWS, 4, 7))

# An ensemble whose members differ in size: the outputs are those of the second.
members = nn.ModuleList([nn.ModuleDict({"body": mlp(nn.ReLU, OBS, w), "policy": nn.Linear(w, 3), "value": nn.Linear(w, 1)}) for w in (4, 12, 8)])
two = members[1]
save("ensemble", {"state_dict": nn.ModuleDict({"members": members}).state_dict()},
     lambda x: (two["policy"](torch.relu(two["body"](x))), two["value"](torch.relu(two["body"](x)))), x)

# What the learner does not have.
torch.save(nn.Sequential(nn.Linear(OBS, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), "batchnorm.pth")
torch.save(nn.Sequential(nn.Linear(OBS, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).state_dict(), "layernorm.pth")
torch.save(nn.ModuleDict({"gru": nn.GRU(4, 8), "policy": nn.Linear(8, 3), "value": nn.Linear(8, 1)}).state_dict(), "gru.pth")
