#!/usr/bin/env bash
# Times training here and in PyTorch, in turns on the same machine, on three networks: the Omniglot meta-step, and two of
# a reader's own with this library's layers, plain and with residual blocks. Prints the ratios of steps a second (medians
# of ROUNDS rounds, 5 by default) against the best of PyTorch's memory formats, threads and processes; and JAX's vmap,
# once. Python's packages go into a virtual environment outside the repository (LEAP_VENV, by default in the temporary
# folder).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${LEAP_VENV:-${TMPDIR:-/tmp}/leap-pytorch}
if ! "$venv/bin/python" -c 'import torch, jax' 2> /dev/null; then
  python3 -m venv "$venv"
  "$venv/bin/pip" install --quiet torch numpy 'jax[cpu]'
fi
cargo bench --profile dev --bench meta_step --bench own_network --no-run
"$venv/bin/python" benches/compare.py "${ROUNDS:-5}"
