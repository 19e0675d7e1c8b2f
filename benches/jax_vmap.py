"""The Omniglot convnet's training steps in JAX, the tasks of a meta-batch as one program by `vmap`, for the record.

Plain SGD, without Leap. Prints task steps a second and the peak memory in MiB. Called by benches/compare.py.

    python benches/jax_vmap.py TASKS [SECONDS]
"""

import resource
import sys
import time

import jax
import jax.numpy as jnp
from jax import lax


def forward(params, x):
    for weight, bias, gain, shift in params["blocks"]:
        x = lax.conv_general_dilated(x, weight, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")) + bias
        x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        x = jax.nn.relu((x - mean) * lax.rsqrt(variance + 1e-5) * gain + shift)
    return x.reshape(x.shape[0], -1) @ params["weight"] + params["bias"]


def loss(params, x, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(forward(params, x)), y[:, None], 1).mean()


def step(params, x, y):
    return jax.tree.map(lambda p, g: p - 0.1 * g, params, jax.grad(loss)(params, x, y))


def main():
    tasks, seconds = int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 6.0
    keys = iter(jax.random.split(jax.random.key(0), 16))

    def normal(*shape):
        return 0.05 * jax.random.normal(next(keys), (tasks, *shape))

    blocks = []
    for inputs in [1, 64, 64, 64]:
        gain = jnp.ones((tasks, 64))
        blocks.append((normal(3, 3, inputs, 64), 0 * gain, gain, 0 * gain))
    params = {"blocks": blocks, "weight": normal(64, 20), "bias": jnp.zeros((tasks, 20))}
    x = jax.random.uniform(next(keys), (tasks, 20, 28, 28, 1))
    y = jax.random.randint(next(keys), (tasks, 20), 0, 20)
    together = jax.jit(jax.vmap(step))
    params = jax.block_until_ready(together(params, x, y))
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        params = jax.block_until_ready(together(params, x, y))
        done += tasks
    rate = done / (time.perf_counter() - start)
    print(rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
