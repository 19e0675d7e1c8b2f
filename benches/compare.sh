#!/usr/bin/env bash
# Times the Omniglot meta-step here and in PyTorch, in turns on the same machine, and prints the ratios of task steps a
# second (medians of ROUNDS rounds, 5 by default). PyTorch goes into a virtual environment outside the repository
# (LEAP_VENV, by default in the temporary folder).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${LEAP_VENV:-${TMPDIR:-/tmp}/leap-pytorch}
rounds=${ROUNDS:-5}
cores=$(nproc)
if ! [ -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet torch numpy
fi
cargo bench --profile dev --bench meta_step --no-run
ours() { cargo bench --quiet --profile dev --bench meta_step -- "$@"; }
theirs() { "$venv/bin/python" benches/pytorch.py "$@" 100; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for round in $(seq "$rounds"); do
  echo "ours-all $(ours flex "$cores")" >> "$log"
  echo "theirs-threads $(theirs "$cores" 1)" >> "$log"
  echo "theirs-processes $(theirs 1 "$cores")" >> "$log"
  echo "ours-one $(ours flex 1)" >> "$log"
  echo "theirs-one $(theirs 1 1)" >> "$log"
  echo "round $round of $rounds" >&2
done
"$venv/bin/python" - "$log" <<'PY'
import collections, statistics, sys
rates, peaks = collections.defaultdict(list), collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, rate, peak = line.split()
    rates[name].append(float(rate))
    peaks[name].append(float(peak))
median = {name: statistics.median(values) for name, values in rates.items()}
for name, values in rates.items():
    low, high, peak = min(values), max(values), statistics.median(peaks[name])
    print(f"{name:18} {median[name]:7.1f} task steps a second ({low:.1f} to {high:.1f}), peak memory {peak:.0f} MiB")
best = max(["theirs-threads", "theirs-processes"], key=median.get)
def ratio(runs, a, b):
    return statistics.median(x / y for x, y in zip(runs[a], runs[b]))
print(f"whole machine, all lanes against PyTorch's best ({best[7:]}): {ratio(rates, 'ours-all', best):.2f} times the steps")
print(f"one thread against one thread: {ratio(rates, 'ours-one', 'theirs-one'):.2f} times the steps")
print(f"peak memory, against PyTorch's threads: {ratio(peaks, 'ours-all', 'theirs-threads'):.2f} times")
PY
