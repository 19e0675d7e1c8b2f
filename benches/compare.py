"""Ours against PyTorch at its best, in turns on the same machine: called by benches/compare.sh.

Which memory format, and whether threads or processes, is the best of PyTorch on a whole machine or on one thread is
decided by the medians of this very run. Prints training steps a second, peak memory, and the ratios.

    python benches/compare.py ROUNDS
"""

import collections
import os
import statistics
import subprocess
import sys

CORES = os.cpu_count()
FORMATS = ["contiguous", "channels_last"]


def ours(bench, *arguments):
    return ["cargo", "bench", "--quiet", "--profile", "dev", "--bench", bench, "--", "flex", *map(str, arguments)]


def theirs(network, memory_format, threads, processes):
    return [sys.executable, "benches/pytorch.py", network, memory_format, str(threads), str(processes)]


def programs(network, bench, *more):
    """All that is timed for a network: name, and command."""
    yield "ours, all lanes", ours(bench, CORES, *more)
    yield "ours, one thread", ours(bench, 1, *more)
    for memory_format in FORMATS:
        name = f"PyTorch, {memory_format}"
        yield f"{name}, {CORES} threads", theirs(network, memory_format, CORES, 1)
        yield f"{name}, {CORES} processes", theirs(network, memory_format, 1, CORES)
        yield f"{name}, one thread", theirs(network, memory_format, 1, 1)


def compare(rounds, title, network, bench, *more):
    rates, peaks = collections.defaultdict(list), collections.defaultdict(list)
    for done in range(rounds):
        for name, command in programs(network, bench, *more):
            rate, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            rates[name].append(float(rate))
            peaks[name].append(float(peak))
        print(f"{title}: round {done + 1} of {rounds}", file=sys.stderr)
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"\n{title}: training steps a second, median of {rounds} rounds (least to most), peak memory")
    for name, values in rates.items():
        span = f"({min(values):.1f} to {max(values):.1f})"
        print(f"  {name:40} {median[name]:7.1f} {span:18} {statistics.median(peaks[name]):5.0f} MiB")

    def ratio(mine, other):
        each = [a / b for a, b in zip(rates[mine], rates[other])]
        return f"{statistics.median(each):.2f} times ({min(each):.2f} to {max(each):.2f})"

    one = [name for name in rates if name.startswith("PyTorch") and name.endswith("one thread")]
    best_one = max(one, key=median.get)
    best_all = max((name for name in rates if name.startswith("PyTorch")), key=median.get)
    print(f"  whole machine, against {best_all}: {ratio('ours, all lanes', best_all)}")
    print(f"  one thread, against {best_one}: {ratio('ours, one thread', best_one)}")
    print(f"  all lanes against one thread: {ratio('ours, all lanes', 'ours, one thread')}")
    least = min(statistics.median(values) for name, values in peaks.items() if name.startswith("PyTorch"))
    share = statistics.median(peaks["ours, all lanes"]) / least
    print(f"  peak memory of all lanes, against PyTorch's least: {share:.2f} times")


def main():
    rounds = int(sys.argv[1])
    compare(rounds, "Omniglot meta-step with Leap", "omniglot", "meta_step")
    compare(rounds, "A network of one's own", "own", "own_network")
    compare(rounds, "The same with residual blocks", "residual", "own_network", 6, "fast", "residual")
    for tasks in [CORES, 5]:
        command = [sys.executable, "benches/jax_vmap.py", str(tasks)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            print(f"\nJAX was not timed: {result.stderr.strip().splitlines()[-1]}")
            return
        rate, peak = map(float, result.stdout.split())
        print(f"\nJAX, vmap over {tasks} tasks, without Leap, once: {rate:.1f} task steps a second, {peak:.0f} MiB")


if __name__ == "__main__":
    main()
