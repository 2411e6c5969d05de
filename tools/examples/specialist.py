"""A trading specialist in PyTorch, with the observation, actions, rewards and defaults of the built-in learner.

As a job: tools/examples/specialist.yaml. By hand, from a history or from a Data Service:

    python specialist.py --csv SPX_1d.csv --specialist bear
    python specialist.py --url http://127.0.0.1:8086 --specialist bear

It needs torch and numpy, runs on a GPU when there is one, and reports through the package trainyard when that is installed
(pip install ./proto/python). The native learner does the same faster on a processor; this is the place to start from for what it
does not do.
"""
import argparse
import csv
import json
import math
import os
import time
import urllib.request

import numpy as np
import torch

try:
    import trainyard
except ImportError:  # runs without it too: see Prints
    trainyard = None

WIDTH, ACTIONS, CLIP = 64, 3, 5.0
REGIMES = ("unknown", "bull", "bear", "sideways")
WARMUP = 252
FEATURES = ["ret_1", "ret_2", "ret_5", "ret_10", "ret_21", "ret_63", "ret_126", "ret_252", "vol_5", "vol_21", "vol_63", "mom_12_1", "rsi_14",
            "macd_line", "macd_signal", "macd_hist", "volume_z_21", "range", "gap", "drawdown_252", "dist_sma_50", "dist_sma_200"]


class Table:
    """Bars with their features: close [bars], features [bars, n], regimes [bars] (numbers as in REGIMES)."""

    def __init__(self, close, features, regimes, days):
        self.close, self.features = np.asarray(close, np.float64), np.asarray(features, np.float32)
        self.regimes, self.days = np.asarray(regimes), np.asarray(days, np.float64)


def from_service(url, symbol, timeframe):
    """The table that the Data Service serves."""
    request = urllib.request.Request(f"{url}/api/v1/features/{symbol}/{timeframe}", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return from_json(json.load(answer))


def from_json(t):
    days = [np.datetime64(d.rstrip("Z")[:10]).astype(int) for d in t["dates"]]
    return Table(t["close"], t["features"], [REGIMES.index(r) for r in t["regimes"]], days)


def from_csv(path):
    """Computes the features of a history: what every job did by itself before there was a Data Service."""
    with open(path) as f:
        rows = list(csv.DictReader(f))
    column = lambda name: np.array([float(r[name]) for r in rows])
    scale = column("adjclose") / column("close")
    opens, high, low, price, volume = column("open") * scale, column("high") * scale, column("low") * scale, column("adjclose"), column("volume")
    ret = np.concatenate([[0.0], np.log(price[1:] / price[:-1])])
    gain = loss = average = 0.0
    fast = slow = price[0]
    features, regimes = [], []
    for i in range(len(price)):
        if i > 0:
            change, k = price[i] - price[i - 1], 1 / min(14, i)
            gain += k * (max(change, 0) - gain)
            loss += k * (max(-change, 0) - loss)
        fast += 2 / 13 * (price[i] - fast)
        slow += 2 / 27 * (price[i] - slow)
        average += 0.2 * (fast - slow - average)
        if i < WARMUP:
            continue
        back = lambda k: math.log(price[i] / price[i - k])
        last = lambda x, k: x[i - k + 1:i + 1]
        line, signal, vol63 = (fast - slow) / price[i], average / price[i], last(ret, 63).std()
        features.append([ret[i], back(2), back(5), back(10), back(21), back(63), back(126), back(252), last(ret, 5).std(), last(ret, 21).std(),
                         vol63, math.log(price[i - 21] / price[i - 252]), gain / (gain + loss), line, signal, line - signal,
                         (volume[i] - last(volume, 21).mean()) / last(volume, 21).std(), (high[i] - low[i]) / price[i],
                         math.log(opens[i] / price[i - 1]), price[i] / last(price, 252).max() - 1, price[i] / last(price, 50).mean() - 1,
                         price[i] / last(price, 200).mean() - 1])
        d, limit = back(21), 0.4 * vol63 * math.sqrt(21)
        regimes.append(1 if d > limit else 2 if d < -limit else 3)
    days = [np.datetime64(r["date"]).astype(int) for r in rows]
    return Table(price[WARMUP:], features, regimes, days[WARMUP:])


class World:
    """The table made ready for one specialist: split, standardised with the training bars only, cut into segments of its regime."""

    def __init__(self, table, regime, cost=2e-4):
        n = len(table.close)
        test = n - int(n * 0.25)
        first = test - int(n * 0.25)
        self.cost, self.close, self.features = cost, table.close, table.features.shape[1]
        parts = {"train": (0, first - 21), "validation": (first, test - 21), "test": (test, n)}
        train = table.features[:first - 21].astype(np.float64)
        mean, sd = train.mean(0), train.std(0)
        self.scale = np.where(sd > 1e-12, 1 / np.maximum(sd, 1e-300), 0)
        self.mean = mean
        self.rows = np.zeros((n, WIDTH), np.float32)
        self.rows[:, :self.features] = np.clip((table.features - mean) * self.scale, -CLIP, CLIP)
        self.moves = np.append(table.close[1:] / table.close[:-1] - 1, 0.0)
        self.per_year = (n - 1) / (table.days[-1] - table.days[0]) * 365.25
        self.segments = {name: self._segments(table.regimes == regime, *span) for name, span in parts.items()}
        lengths = np.array([b - a for a, b in self.segments["train"]])
        # Every training bar is equally likely to begin an episode.
        self.starts = np.concatenate([np.arange(a, b) for a, b in self.segments["train"]])
        self.ends = np.repeat([b for _, b in self.segments["train"]], lengths)

    @staticmethod
    def _segments(mine, start, end):
        out, begun = [], None
        for i in range(start, end - 1):  # the last bar's move would end outside
            if mine[i] and begun is None:
                begun = i
            if begun is not None and (not mine[i] or i == end - 2):
                out.append((begun, i + 1 if mine[i] else i))
                begun = None
        return out


class Envs:
    """Many environments side by side, as arrays. Actions: 0 short, 1 flat, 2 long; the reward is risk-adjusted."""

    def __init__(self, world, bars, ends, rng=None):
        self.world, self.rng = world, rng
        n = len(bars)
        self.bar, self.end = np.array(bars), np.array(ends)
        self.held, self.position = np.zeros(n, int), np.zeros(n, int)
        self.equity, self.peak, self.entry = np.ones(n), np.ones(n), np.ones(n)

    @classmethod
    def random(cls, world, n, rng):
        k = rng.integers(len(world.starts), size=n)
        return cls(world, world.starts[k], world.ends[k], rng)

    def observe(self):
        out = self.world.rows[self.bar]
        f = self.world.features
        out[:, f], out[:, f + 1] = self.position, self.position * self.position
        out[:, f + 2] = np.minimum(self.held / 21, 3)
        out[:, f + 3] = np.where(self.position != 0, np.clip(20 * (self.equity / self.entry - 1), -CLIP, CLIP), 0)
        out[:, f + 4] = np.minimum(CLIP, 10 * (1 - self.equity / self.peak))
        return out

    def step(self, actions):
        """Returns rewards, net returns, turnover and which episodes ended; ended ones begin again when there is a rng."""
        position = actions - 1
        turnover = np.abs(position - self.position).astype(float)
        changed = position != self.position
        self.held = np.where(changed, 0, self.held + (position != 0))
        self.entry = np.where(changed, self.equity, self.entry)
        self.position = position
        net = position * self.world.moves[self.bar] - turnover * self.world.cost
        self.bar = self.bar + 1
        done = self.bar >= self.end
        closing = np.where(done, np.abs(position), 0)
        net, turnover = net - closing * self.world.cost, turnover + closing
        before = 1 - self.equity / self.peak
        self.equity = self.equity * np.maximum(1 + net, 1e-6)
        self.peak = np.maximum(self.peak, self.equity)
        fallen = np.maximum(0, 1 - self.equity / self.peak - before)
        reward = 100 * np.log1p(np.maximum(net, -0.5)) - 5 * fallen - 0.01 * turnover
        if self.rng is not None and done.any():
            at = np.flatnonzero(done)
            k = self.rng.integers(len(self.world.starts), size=len(at))
            self.bar[at], self.end[at] = self.world.starts[k], self.world.ends[k]
            self.held[at], self.position[at] = 0, 0
            self.equity[at], self.peak[at], self.entry[at] = 1, 1, 1
        return reward, net, turnover, done


class Net(torch.nn.Module):
    def __init__(self, hidden=(128, 128)):
        super().__init__()
        sizes = [WIDTH, *hidden]
        self.trunk = torch.nn.ModuleList([torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:])])
        self.policy, self.value = torch.nn.Linear(sizes[-1], ACTIONS), torch.nn.Linear(sizes[-1], 1)
        for layer, gain in [*((l, math.sqrt(2)) for l in self.trunk), (self.policy, 0.01), (self.value, 1.0)]:
            torch.nn.init.orthogonal_(layer.weight, gain)
            torch.nn.init.zeros_(layer.bias)

    def forward(self, x):
        for layer in self.trunk:
            x = torch.relu(layer(x))
        return self.policy(x), self.value(x).squeeze(-1)


def evaluate(world, part, act):
    """Sharpe ratio, return and exposure of greedy actions on the regime's bars of a part, after costs."""
    segments = world.segments[part]
    order = np.cumsum([0] + [b - a for a, b in segments])
    net, exposed = np.zeros(order[-1]), np.zeros(order[-1])
    live = np.arange(len(segments))
    envs = Envs(world, [a for a, _ in segments], [b for _, b in segments])
    begun = np.array([a for a, _ in segments])
    while len(live):
        k = order[live] + envs.bar - begun[live]
        actions = act(envs.observe())
        _, returns, _, done = envs.step(actions)
        net[k], exposed[k] = returns, actions != 1
        keep = ~done
        live = live[keep]
        for name in ("bar", "end", "held", "position", "equity", "peak", "entry"):
            setattr(envs, name, getattr(envs, name)[keep])
    sd = net.std()
    sharpe = float(net.mean() / sd * math.sqrt(world.per_year)) if sd > 1e-12 else 0.0
    return {"sharpe": sharpe, "total_return": float(np.prod(1 + net) - 1), "exposure": float(exposed.mean())}


class Prints:
    """Stands in for an attempt where the package trainyard is not installed."""
    batch_size = gradient_accumulation = 0
    learning_rate_scale, should_stop, should_save = 1.0, False, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def log(self, step, metrics=None, **more):
        print(step, {**(metrics or {}), **more}, flush=True)

    def save(self, *_, **__):
        pass

    def restore(self, **_):
        return None


def train(world, attempt, *, seed=1, epochs=80, patience=25, envs=128, steps=64, passes=4, batch=2048, device="cpu", quiet=False):
    """Proximal policy optimisation; returns the best epoch's figures on validation and test."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = Net().to(device)
    decayed = [l.weight for l in net.trunk]
    rest = [p for p in net.parameters() if not any(p is d for d in decayed)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 1.0}, {"params": rest, "weight_decay": 0.0}], lr=3e-4, eps=1e-5)
    best, start = {"sharpe": -math.inf, "epoch": 0, "eligible": False}, 0
    state = attempt.restore(map_location=device)
    if state:
        net.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        best, start = state["best"], state["epoch"]
    walk = Envs.random(world, envs, rng)
    greedy = lambda x: net(torch.from_numpy(x).to(device))[0].argmax(1).cpu().numpy()
    batch = (attempt.batch_size or batch) * max(attempt.gradient_accumulation, 1)
    accumulation = max(attempt.gradient_accumulation, 1)
    gamma, lam, clip = 0.9, 0.9, 0.2
    for epoch in range(start, epochs):
        if attempt.should_stop:
            break
        share = 1 - min(1, epoch / (epochs - 1)) * 0.9
        for group in optimizer.param_groups:
            group["lr"] = 3e-4 * share * attempt.learning_rate_scale
        began = time.perf_counter()
        obs, acts = np.zeros((steps, envs, WIDTH), np.float32), np.zeros((steps, envs), np.int64)
        logp, values, rewards = (np.zeros((steps, envs), np.float32) for _ in range(3))
        dones = np.zeros((steps, envs), bool)
        with torch.no_grad():
            for t in range(steps):
                x = walk.observe()
                # A few hundred bars are seen thousands of times: noise keeps them from being learned by heart.
                x[:, :world.features] += 0.3 * rng.standard_normal((envs, world.features), np.float32)
                logits, v = net(torch.from_numpy(x).to(device))
                chosen = torch.distributions.Categorical(logits=logits)
                a = chosen.sample()
                obs[t], acts[t], logp[t], values[t] = x, a.cpu(), chosen.log_prob(a).cpu(), v.cpu()
                rewards[t], _, _, dones[t] = walk.step(acts[t])
            last = net(torch.from_numpy(walk.observe()).to(device))[1].cpu().numpy()
        advantage, carried = np.zeros_like(rewards), np.zeros(envs)
        for t in reversed(range(steps)):
            following = values[t + 1] if t + 1 < steps else last
            alive = ~dones[t]
            carried = rewards[t] + gamma * following * alive - values[t] + gamma * lam * carried * alive
            advantage[t] = carried
        target = torch.from_numpy((advantage + values).ravel()).to(device)
        advantage = torch.from_numpy(((advantage - advantage.mean()) / (advantage.std() + 1e-8)).ravel()).to(device)
        obs, acts, logp = torch.from_numpy(obs.reshape(-1, WIDTH)).to(device), torch.from_numpy(acts.ravel()).to(device), torch.from_numpy(logp.ravel()).to(device)
        for _ in range(passes):
            order = torch.randperm(len(obs), device=device)
            for rows in order.split(batch):
                optimizer.zero_grad(set_to_none=True)
                for part in rows.split(math.ceil(len(rows) / accumulation)):
                    logits, v = net(obs[part])
                    log = torch.log_softmax(logits, 1)
                    ratio = (log.gather(1, acts[part, None]).squeeze(1) - logp[part]).exp()
                    gain = torch.minimum(ratio * advantage[part], ratio.clamp(1 - clip, 1 + clip) * advantage[part])
                    entropy = -(log.exp() * log).sum(1)
                    loss = (-gain + 0.25 * (v - target[part]) ** 2 - 0.05 * share * entropy).sum() / len(rows)
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
                optimizer.step()
        with torch.no_grad():
            valid = evaluate(world, "validation", greedy)
        step = (epoch + 1) * steps * envs
        if not quiet:
            attempt.log(step, {"train/reward": float(rewards.mean()), "train/loss": float(loss.detach()), "validation/sharpe": valid["sharpe"],
                               "throughput/steps_per_second": steps * envs / (time.perf_counter() - began)})
        eligible = valid["exposure"] >= 0.1
        if best["epoch"] == 0 or eligible > best["eligible"] or eligible == best["eligible"] and valid["sharpe"] > best["sharpe"]:
            with torch.no_grad():
                best = {**valid, "epoch": epoch + 1, "eligible": eligible, "test": evaluate(world, "test", greedy)}
        if (epoch + 1) % 5 == 0 or attempt.should_save or attempt.should_stop:
            attempt.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch + 1, "best": best}, step,
                         **({"sharpe": valid["sharpe"]} if eligible else {}))
        if epoch + 1 - best["epoch"] >= patience:
            break
    return best


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--csv", help="history: date,open,high,low,close,adjclose,volume")
    p.add_argument("--url", default=os.environ.get("TRAINYARD_DATA_SERVICE_URL"), help="Data Service")
    p.add_argument("--symbol", default="SPX")
    p.add_argument("--timeframe", default="1d")
    p.add_argument("--specialist", choices=REGIMES[1:], default="bull")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--epochs", type=int, default=80)
    a = p.parse_args()
    if not a.csv and not a.url:
        p.error("--csv FILE or --url http://HOST:PORT of a Data Service")
    table = from_csv(a.csv) if a.csv else from_service(a.url, a.symbol, a.timeframe)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parameters = {"specialist": a.specialist, "seed": a.seed, "epochs": a.epochs}
    with trainyard.attempt(params=parameters) if trainyard else Prints() as attempt:
        best = train(World(table, REGIMES.index(a.specialist)), attempt, seed=a.seed, epochs=a.epochs, device=device)
    print(json.dumps(best))


if __name__ == "__main__":
    main()
