"""The same work in PyTorch, all data made beforehand.

`omniglot` is a meta-step of Leap on the Omniglot convnet, `own` and `residual` plain training of the networks of
benches/own_network.rs. Prints training steps a second over the whole machine, and the peak memory of all its
processes in MiB. Called by benches/compare.py.

    python benches/pytorch.py omniglot|own|residual contiguous|channels_last THREADS PROCESSES [SECONDS]
"""

import functools
import resource
import sys
import time

import torch
from torch import nn

STEPS = 100  # of a task


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
        self.inner = nn.Sequential(*layers, nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64))

    def forward(self, x):
        return nn.functional.max_pool2d(nn.functional.relu(x + self.inner(x)), 2)


def model(name):
    blocks = []
    if name == "residual":
        stem = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*stem, Residual(), Residual(), Residual(), nn.Flatten(), nn.Linear(256, 20))
    for i in range(4):
        convolution = nn.Conv2d(64 if i else {"omniglot": 1, "own": 3}[name], 64, 3, padding=1)
        if name == "omniglot":
            blocks += [convolution, nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU()]
        else:
            blocks += [convolution, nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear({"omniglot": 64, "own": 256}[name], 20))


def omniglot(init, batches, memory_format):
    """Trains a copy of `init` with SGD; returns Leap's meta-gradient (length, loss, stabilizer)."""
    net = model("omniglot").to(memory_format=memory_format)
    net.load_state_dict(init)
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, 0.1)
    criterion = nn.CrossEntropyLoss()
    gradient = [torch.zeros_like(p) for p in parameters]
    last = None
    for x, y in batches:
        loss = criterion(net(x), y)
        loss.backward()
        with torch.no_grad():
            here = (loss.detach(), [p.detach().clone() for p in parameters], [p.grad.clone() for p in parameters])
            if last is not None:
                steps = torch._foreach_sub(here[1], last[1])
                rise = here[0] - last[0]
                length = (rise**2 + sum((s * s).sum() for s in steps)).sqrt()
                rise = -rise.abs()
                for total, step, grad in zip(gradient, steps, last[2]):
                    total -= (step + rise * grad) / length
            last = here
        optimizer.step()
        optimizer.zero_grad()
    return gradient


def plain(name, init, batches, memory_format):
    """Trains a copy of `init` with SGD."""
    net = model(name).to(memory_format=memory_format)
    net.load_state_dict(init)
    optimizer = torch.optim.SGD(net.parameters(), 0.01)
    criterion = nn.CrossEntropyLoss()
    for x, y in batches:
        criterion(net(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()


def work(name, memory_format, threads, seconds):
    """Training steps a second of one process, and its peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    memory_format = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}[memory_format]
    shape = (20, 1, 28, 28) if name == "omniglot" else (20, 3, 32, 32)
    train = omniglot if name == "omniglot" else functools.partial(plain, name)
    init = model(name).state_dict()
    batches = [
        (torch.rand(shape).to(memory_format=memory_format), torch.randint(20, (20,)))
        for _ in range(STEPS if name == "omniglot" else 20)
    ]
    train(init, batches[:10], memory_format)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        train(init, batches, memory_format)
        done += len(batches)
    rate = done / (time.perf_counter() - start)
    return rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    name, memory_format = sys.argv[1:3]
    threads, processes = map(int, sys.argv[3:5])
    job = (name, memory_format, threads, float(sys.argv[5]) if len(sys.argv) > 5 else 6.0)
    if processes == 1:
        print(*work(*job))
        return
    import torch.multiprocessing as mp

    with mp.get_context("spawn").Pool(processes) as pool:
        results = pool.starmap(work, [job] * processes, chunksize=1)
        print(*map(sum, zip(*results)))


if __name__ == "__main__":
    main()
