#!/usr/bin/env bash
# Environment steps a second of advantage actor-critic on Atari, here (with Leap's path) and in Stable-Baselines3, in turns on
# the same machine: the same network, the same game, as many copies and threads, once on the same vector environment of ALE
# and once as Stable-Baselines3's own helpers set it up. Prints medians of ROUNDS rounds (5 by default) and ratios.
# Both Pythons go into virtual environments outside the repository (LEAP_VENV, by default in the temporary folder).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${LEAP_VENV:-${TMPDIR:-/tmp}/leap-sb3}
game=${1:-breakout} copies=${2:-32} threads=${3:-$(nproc)} seconds=${4:-8}
if ! [ -x "$venv/bin/python" ]; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet torch stable-baselines3 opencv-python-headless 'ale-py==0.12.*'
fi
export VIRTUAL_ENV=$venv
LD_LIBRARY_PATH=$(python3 -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
export LD_LIBRARY_PATH
bench() { cargo bench --quiet --workspace --profile dev --features leap-tests/atari --bench atari "$@"; }
bench --no-run
theirs() { "$venv/bin/python" benches/atari.py "$game" "$copies" "$threads" "$seconds" "$1" 2> /dev/null | tail -n 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for round in $(seq "${ROUNDS:-5}"); do
  echo "ours $(bench -- "$game" "$copies" "$threads" "$seconds")" >> "$log"
  echo "native $(theirs native)" >> "$log"
  echo "wrapped $(theirs wrapped)" >> "$log"
  echo "round $round" >&2
done
"$venv/bin/python" - "$log" <<'PY'
import collections, statistics, sys
rates = collections.defaultdict(list)
for line in open(sys.argv[1]):
    name, rate = line.split()
    rates[name].append(float(rate))
for name, values in rates.items():
    print(f"{name:8} {statistics.median(values):7.0f} environment steps a second ({min(values):.0f} to {max(values):.0f})")
for name in ["native", "wrapped"]:
    ratios = [ours / theirs for ours, theirs in zip(rates["ours"], rates[name])]
    print(f"ours against {name}: {statistics.median(ratios):.2f} times ({min(ratios):.2f} to {max(ratios):.2f})")
PY
