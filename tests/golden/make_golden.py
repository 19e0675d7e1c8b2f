"""Makes mlp.safetensors: Leap's meta-gradients of a small MLP, in float64 with NumPy alone.

    pip install numpy safetensors
    python tests/golden/make_golden.py

Every formula is written out here once more, by hand, so that the Rust code is compared with something
that shares nothing with it. Layout and names are those of PyTorch: weights are [out, in]; layer 0, 2
and 4 of a Sequential with tanh between them. Losses are mean cross-entropies.

init/NAME                          initial parameters
taskT/x, taskT/y                   batches, stacked
losses/OPT/taskT                   losses before each update
taskT/query_x, taskT/query_y       a batch that is not trained on
leap/OPT/METRIC-LOSS-STAB/NAME     Leap's meta-gradient, mean over the tasks
reptile/sgd/NAME                   mean of the first point minus the last
fomaml/sgd/NAME                    mean of the last training gradient
fomaml-query/sgd/NAME              mean of the query batch's gradient after training
maml5/sgd/NAME                     mean derivative of the query loss after 5 steps by the initial parameters,
                                   each by a central difference of the whole training
"""

import itertools
import pathlib

import numpy as np
from safetensors.numpy import save_file

SIZES, TASKS, STEPS, BATCH = [3, 6, 5, 4], 2, 7, 5
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight", "4.bias"]


def loss_and_gradients(params, x, y):
    w1, b1, w2, b2, w3, b3 = params
    h1 = np.tanh(x @ w1.T + b1)
    h2 = np.tanh(h1 @ w2.T + b2)
    z = h2 @ w3.T + b3
    z = z - z.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    n = len(y)
    loss = -np.log(p[np.arange(n), y]).mean()
    d3 = p.copy()
    d3[np.arange(n), y] -= 1
    d3 /= n
    d2 = (d3 @ w3) * (1 - h2**2)
    d1 = (d2 @ w2) * (1 - h1**2)
    return loss, [d1.T @ x, d1.sum(0), d2.T @ h1, d2.sum(0), d3.T @ h2, d3.sum(0)]


def optimizer(name):
    """A function from (step from 1, gradients) to the change of the parameters."""
    m, v = [0.0] * len(NAMES), [0.0] * len(NAMES)

    def sgd(step, grads):
        return [-0.1 * g for g in grads]

    def momentum(step, grads):
        for i, g in enumerate(grads):
            m[i] = 0.9 * m[i] + g
        return [-0.05 * velocity for velocity in m]

    def adam(step, grads):
        change = []
        for i, g in enumerate(grads):
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            first, second = m[i] / (1 - 0.9**step), v[i] / (1 - 0.999**step)
            change.append(-0.01 * first / (np.sqrt(second) + 1e-3))
        return change

    return {"sgd": sgd, "momentum": momentum, "adam": adam}[name]


def meta_gradient(points, energy, with_loss, stabilizer):
    """The sum over a path's segments; points are (parameters, loss, gradients)."""
    total = [np.zeros_like(p) for p in points[0][0]]
    for (theta, loss, grads), (theta_next, loss_next, _) in zip(points, points[1:]):
        delta = [b - a for a, b in zip(theta, theta_next)]
        rise = loss_next - loss if with_loss else 0.0
        length = np.sqrt(rise**2 + sum((d**2).sum() for d in delta))
        if stabilizer:
            rise = -abs(rise)
        scale = 1.0 if energy else 1.0 / length
        for t, d, g in zip(total, delta, grads):
            t -= scale * (d + rise * g)
    return total


def maml(init, x, y, query):
    def query_loss(params):
        for step in range(5):
            grads = loss_and_gradients(params, x[step], y[step])[1]
            params = [p - 0.1 * g for p, g in zip(params, grads)]
        return loss_and_gradients(params, *query)[0]

    out = []
    for i, p in enumerate(init):
        grad = np.zeros_like(p)
        for at in np.ndindex(p.shape):
            change = np.zeros_like(p)
            change[at] = 1e-5
            ahead, behind = ([*init[:i], p + sign * change, *init[i + 1 :]] for sign in (1, -1))
            grad[at] = (query_loss(ahead) - query_loss(behind)) / 2e-5
        out.append(grad)
    return out


def main():
    rng = np.random.default_rng(20)
    f32 = lambda a: a.astype(np.float32).astype(np.float64)  # what the file can hold
    init = []
    for fan_in, fan_out in zip(SIZES, SIZES[1:]):
        bound = 1 / np.sqrt(fan_in)
        init.append(f32(rng.uniform(-bound, bound, (fan_out, fan_in))))
        init.append(f32(rng.uniform(-bound, bound, fan_out)))
    out = {f"init/{n}": p for n, p in zip(NAMES, init)}
    tasks = []
    for t in range(TASKS):
        x = f32(rng.normal(size=(STEPS, BATCH, SIZES[0])))
        teacher = rng.normal(size=(SIZES[-1], SIZES[0]))
        y = (x @ teacher.T).argmax(-1)
        tasks.append((x, y))
        out[f"task{t}/x"], out[f"task{t}/y"] = x, y.astype(np.int32)
    # Drawn after all the rest, so as to leave it as it was.
    queries = []
    for t, (x, y) in enumerate(tasks):
        query = f32(rng.normal(size=(BATCH, SIZES[0]))), rng.integers(SIZES[-1], size=BATCH)
        queries.append(query)
        out[f"task{t}/query_x"], out[f"task{t}/query_y"] = query[0], query[1].astype(np.int32)
    mean = lambda grads: [sum(per_task) / TASKS for per_task in zip(*grads)]
    ends = []
    for opt in ["sgd", "momentum", "adam"]:
        paths = []
        for t, (x, y) in enumerate(tasks):
            update, params, points = optimizer(opt), init, []
            for step in range(STEPS):
                loss, grads = loss_and_gradients(params, x[step], y[step])
                points.append((params, loss, grads))
                params = [p + c for p, c in zip(params, update(step + 1, grads))]
            paths.append(points)
            ends.append(params)
            out[f"losses/{opt}/task{t}"] = np.array([p[1] for p in points])
        assert any(b[1] > a[1] for p in paths for a, b in zip(p, p[1:])), "the stabilizer is not tested"
        for energy, with_loss, stab in itertools.product([False, True], repeat=3):
            key = "-".join([
                "energy" if energy else "length",
                "loss" if with_loss else "noloss",
                "stab" if stab else "nostab",
            ])
            grads = mean([meta_gradient(p, energy, with_loss, stab) for p in paths])
            out.update({f"leap/{opt}/{key}/{n}": g for n, g in zip(NAMES, grads)})
        if opt == "sgd":
            others = {
                "reptile": [[a - b for a, b in zip(init, end)] for end in ends],
                "fomaml": [path[-1][2] for path in paths],
                "fomaml-query": [loss_and_gradients(end, *q)[1] for end, q in zip(ends, queries)],
                "maml5": [maml(init, *task, query) for task, query in zip(tasks, queries)],
            }
            for name, grads in others.items():
                out.update({f"{name}/sgd/{n}": g for n, g in zip(NAMES, mean(grads))})
    path = pathlib.Path(__file__).with_name("mlp.safetensors")
    save_file({k: v.astype(np.float32) if v.dtype == np.float64 else v for k, v in out.items()}, path)
    print(f"{path}: {len(out)} tensors")


if __name__ == "__main__":
    main()
