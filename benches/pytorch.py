"""The same meta-step in PyTorch: Leap on the Omniglot convnet, all data made beforehand.

Called by benches/compare.sh. Prints task steps a second over the whole machine, and the peak memory of
all its processes in MiB.

    python benches/pytorch.py THREADS PROCESSES TASK_STEPS
"""

import resource
import sys
import time

import torch
from torch import nn


def model():
    blocks = []
    for channels in [1, 64, 64, 64]:
        blocks += [nn.Conv2d(channels, 64, 3, padding=1), nn.MaxPool2d(2), nn.BatchNorm2d(64), nn.ReLU()]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(64, 20))


def train_task(init, batches):
    """Trains a copy of `init` with SGD; returns Leap's meta-gradient (length, loss, stabilizer)."""
    net = model()
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


def work(threads, steps, seconds):
    """Task steps a second of one process, and its peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    init = model().state_dict()
    batches = [(torch.rand(20, 1, 28, 28), torch.randint(20, (20,))) for _ in range(steps)]
    train_task(init, batches[:10])
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        train_task(init, batches)
        done += steps
    rate = done / (time.perf_counter() - start)
    return rate, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main():
    threads, processes, steps = map(int, sys.argv[1:4])
    if processes == 1:
        print(*work(threads, steps, 6.0))
        return
    import torch.multiprocessing as mp

    with mp.get_context("spawn").Pool(processes) as pool:
        results = pool.starmap(work, [(threads, steps, 6.0)] * processes, chunksize=1)
        print(*map(sum, zip(*results)))


if __name__ == "__main__":
    main()
