"""Writes temporal.pth: a network with a convolution over the last bars, and what PyTorch computes from it. Made with torch 2.15.0.

python temporal.py OUT
"""
import collections, sys
import torch

torch.manual_seed(11)
FEATURES, BARS, WIDTH, STRIDE, CHANNELS, HIDDEN = 22, 14, 5, 3, 16, 32
conv = torch.nn.Conv1d(FEATURES, CHANNELS, WIDTH, STRIDE)
positions = (BARS - WIDTH) // STRIDE + 1
first, second = torch.nn.Linear(64 + positions * CHANNELS, HIDDEN), torch.nn.Linear(HIDDEN, HIDDEN)
policy, value = torch.nn.Linear(HIDDEN, 3), torch.nn.Linear(HIDDEN, 1)
rows = 9
x, past = torch.randn(rows, 64), torch.randn(rows, BARS, FEATURES)
actions, old = torch.randint(0, 3, (rows,)), -1 - 0.3 * torch.rand(rows)
adv, target = torch.randn(rows), torch.randn(rows)
# Position by position, channels within: how a dense layer sees the convolution.
seen = torch.relu(conv(past.transpose(1, 2))).transpose(1, 2).flatten(1)
h = torch.relu(second(torch.relu(first(torch.cat([x, seen], 1)))))
logits, v = policy(h), value(h).squeeze(1)
logp = torch.log_softmax(logits, 1)
ratio = (logp.gather(1, actions[:, None]).squeeze(1) - old).exp()
surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
entropy = -(logp.exp() * logp).sum(1)
loss = (-surrogate + 0.5 * 0.5 * (v - target) ** 2 - 0.05 * entropy).sum()
loss.backward()
weights, grads = collections.OrderedDict(), collections.OrderedDict()
for name, layer in (("history", conv), ("trunk.0", first), ("trunk.1", second), ("policy", policy), ("value", value)):
    weights[f"{name}.weight"], weights[f"{name}.bias"] = layer.weight.data, layer.bias.data
    grads[f"{name}.weight"], grads[f"{name}.bias"] = layer.weight.grad, layer.bias.grad
torch.save({"weights": weights, "grads": grads, "x": x, "past": past, "logits": logits.detach(), "value": v.detach(), "actions": actions,
            "old": old, "adv": adv, "target": target, "loss": loss.detach()}, sys.argv[1])
