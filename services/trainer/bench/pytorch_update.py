"""Update step of the specialists' network in PyTorch: samples per processor second, as JSON by batch size.

python pytorch_update.py SECONDS THREADS BATCH...    (0 threads: as many as PyTorch takes by itself)
"""
import json, sys, time
import torch

seconds, threads, batches = float(sys.argv[1]), int(sys.argv[2]), [int(b) for b in sys.argv[3:]]
if threads:
    torch.set_num_threads(threads)
torch.manual_seed(1)


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 128), torch.nn.ReLU())
        self.policy, self.value = torch.nn.Linear(128, 3), torch.nn.Linear(128, 1)

    def forward(self, x):
        h = self.trunk(x)
        return self.policy(h), self.value(h).squeeze(1)


simd = torch.backends.cpu.get_cpu_capability() if hasattr(torch.backends, "cpu") else ""
out = {"torch": torch.__version__.split("+")[0], "simd": simd, "threads": torch.get_num_threads()}
for batch in batches:
    net = Net()
    params = list(net.parameters())
    # Versions before 2 fuse on a GPU only.
    fused = {} if torch.__version__.startswith("1.") else {"fused": True}
    opt = torch.optim.AdamW(params, lr=3e-4, eps=1e-5, weight_decay=1.0, **fused)
    n = 2048
    obs, actions = torch.randn(n, 64), torch.randint(0, 3, (n,))
    old, adv, target = -1 - 0.1 * torch.rand(n), torch.randn(n), torch.randn(n)

    def step(rows):
        logits, v = net(obs[rows])
        logp = torch.log_softmax(logits, 1)
        ratio = (logp.gather(1, actions[rows, None]).squeeze(1) - old[rows]).exp()
        a = adv[rows]
        surrogate = torch.minimum(ratio * a, ratio.clamp(0.8, 1.2) * a)
        entropy = -(logp.exp() * logp).sum(1)
        loss = (-surrogate + 0.25 * (v - target[rows]) ** 2 - 0.05 * entropy).mean()
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 0.5)
        opt.step()

    for _ in range(5):
        step(torch.randperm(n)[:batch])
    samples, cpu, wall = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - wall < seconds:
        order = torch.randperm(n)
        for i in range(0, n, batch):
            step(order[i : i + batch])
        samples += n
    out[str(batch)] = samples / (time.process_time() - cpu)
print(json.dumps(out))
