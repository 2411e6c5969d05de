"""Writes the .pth fixtures of package pth: python fixtures.py DIR. Made with torch 2.15.0, numpy beside it."""
import argparse, collections, json, os, pickle, random, sys, zlib
import numpy as np
import torch

out = sys.argv[1]
os.makedirs(out, exist_ok=True)
torch.manual_seed(7)


def digest(t):
    t = t.detach().contiguous()
    raw = t.view(torch.uint8).numpy().tobytes() if t.dim() else t.reshape(1).view(torch.uint8).numpy().tobytes()
    return {"shape": list(t.shape), "dtype": str(t.dtype).replace("torch.", ""), "crc32": zlib.crc32(raw)}


def flat(prefix, v, into):
    if isinstance(v, torch.Tensor):
        into[prefix] = digest(v)
    elif isinstance(v, dict):
        for k, x in v.items():
            flat(f"{prefix}.{k}" if prefix else str(k), x, into)
    elif isinstance(v, (list, tuple)):
        for i, x in enumerate(v):
            flat(f"{prefix}.{i}" if prefix else str(i), x, into)
    return into


net = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.ReLU(), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
opt = torch.optim.Adam(net.parameters())
net(torch.randn(4, 5)).sum().backward()
opt.step()
parameter = torch.nn.Parameter(torch.arange(4.0))
parameter.note = "an attribute makes torch write it by another function"
base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
files = {
    "state_dict": net.state_dict(),
    "nested": {"model": net.state_dict(), "optimizer": opt.state_dict(), "epoch": 3, "best": 1.25, "name": "bull", "rng": torch.get_rng_state(), "none": None, "flag": True, "big": 1 << 80, "neg": -5},
    "dtypes": {str(d).replace("torch.", ""): torch.tensor([0, 1, 2, 100], dtype=torch.float32).to(d) for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)},
    "halves": {"subnormal": torch.tensor([6e-8, 3.05e-5, 65504, float("inf"), -0.0], dtype=torch.float16)},
    "views": {"t": base.t(), "row": base[1], "col": base[:, 2], "step": base[::2, 1::2], "scalar": base[2, 3], "empty": base[:0], "expanded": torch.ones(1, 3).expand(4, 3)},
    "tied": {"a": base, "b": base},
    "containers": {"list": [torch.zeros(2), 1], "tuple": (torch.ones(1), "x"), "set": {1}, "bytes": b"\x00\xff", "param": torch.nn.Parameter(torch.ones(2)), "size": torch.Size([2, 3]), "dtype": torch.float16, "od": collections.OrderedDict(a=1)},
    "typed": {str(d).replace("torch.", ""): torch.tensor([0, 1, 2, 100], dtype=torch.float32).to(d) for d in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2)},
    "attributes": {"w": parameter, "tensor": torch.ones(3)},
    "schedule": torch.optim.lr_scheduler.MultiStepLR(opt, [2, 4]).state_dict(),
    "numpy_scalars": {"w": torch.ones(2), "f": np.float64(2.5), "i": np.int32(-7)},
}
index = {}
for name, value in files.items():
    for kind, kw in {"zip": {}, "legacy": {"_use_new_zipfile_serialization": False}}.items():
        for protocol in (1, 2, 3, 4, 5) if name == "nested" else (2, 4):
            path = f"{name}.{kind}.p{protocol}.pth"
            torch.save(value, f"{out}/{path}", pickle_protocol=protocol, **kw)
            index[path] = flat("", value, {})


class Bomb:
    def __reduce__(self):
        return (os.system, ("touch pth-was-here",))


torch.save({"w": torch.ones(2), "x": Bomb()}, f"{out}/hostile_system.zip.pth")
torch.save({"w": torch.ones(2), "x": Bomb()}, f"{out}/hostile_system.legacy.pth", _use_new_zipfile_serialization=False)
torch.save({"w": torch.ones(2), "args": argparse.Namespace(a=1)}, f"{out}/namespace.pth")
torch.save({"w": torch.ones(2), "arr": np.arange(3)}, f"{out}/numpy_array.pth")
torch.save(net, f"{out}/module.pth")
torch.save({"w": torch.ones(2, dtype=torch.complex64)}, f"{out}/complex.pth")
torch.jit.script(net).save(f"{out}/script.pth")
json.dump(index, open(f"{out}/index.json", "w"), indent=1, sort_keys=True)

# The specialists' network: weights, inputs and what PyTorch computes from them.
trunk = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU())
policy, value = torch.nn.Linear(128, 3), torch.nn.Linear(128, 1)
x = torch.randn(8, 64)
actions, old = torch.randint(0, 3, (8,)), -1 - 0.3 * torch.rand(8)
adv, target = torch.randn(8), torch.randn(8)
h = trunk(x)
logits, v = policy(h), value(h).squeeze(1)
logp = torch.log_softmax(logits, 1)
ratio = (logp.gather(1, actions[:, None]).squeeze(1) - old).exp()
surrogate = torch.minimum(ratio * adv, ratio.clamp(0.8, 1.2) * adv)
entropy = -(logp.exp() * logp).sum(1)
loss = (-surrogate + 0.5 * 0.5 * (v - target) ** 2 - 0.05 * entropy).sum()
loss.backward()
sd = collections.OrderedDict()
for i, l in ((0, trunk[0]), (1, trunk[2])):
    sd[f"trunk.{i}.weight"], sd[f"trunk.{i}.bias"] = l.weight.data, l.bias.data
for n, l in (("policy", policy), ("value", value)):
    sd[f"{n}.weight"], sd[f"{n}.bias"] = l.weight.data, l.bias.data
grads = collections.OrderedDict()
for i, l in ((0, trunk[0]), (1, trunk[2])):
    grads[f"trunk.{i}.weight"], grads[f"trunk.{i}.bias"] = l.weight.grad, l.bias.grad
for n, l in (("policy", policy), ("value", value)):
    grads[f"{n}.weight"], grads[f"{n}.bias"] = l.weight.grad, l.bias.grad
torch.save({"weights": sd, "grads": grads, "x": x, "logits": logits.detach(), "value": v.detach(), "actions": actions, "old": old, "adv": adv, "target": target, "loss": loss.detach()}, f"{out}/specialist.pth")
