#!/usr/bin/env bash
# Packs the parity suite and the benchmark of tasks at once for a machine that has a GPU, but neither Rust nor network.
# Builds on a machine without a GPU, too.
#
#     bash benches/gpu.sh [BACKEND] [FOLDER]     # cuda, target/gpu
#     # on the other machine
#     tar xf gpu.tar.xz && gpu/run
set -euo pipefail
cd "$(dirname "$0")/.."
backend=${1:-cuda}
out=${2:-${CARGO_TARGET_DIR:-target}/gpu}
workspace=(--workspace --locked --features "leap-tests/$backend")
most=$((60 * 1024 * 1024)) # bytes of the archive

program() { # NAME CARGO-ARGUMENTS: the path of what Cargo builds
  local name=$1
  shift
  cargo "$@" "${workspace[@]}" --message-format json-render-diagnostics |
    sed -n 's/.*"name":"'"$name"'".*"executable":"\([^"]*\)".*/\1/p' | tail -n 1
}

rm -rf "$out" "$out.tar.xz"
mkdir -p "$out"
cp "$(program parity test --no-run --test parity)" "$out/parity"
cp "$(program stacked bench --no-run --profile dev --bench stacked)" "$out/stacked"
strip "$out"/*
cp benches/gpu.py benches/jax_vmap.py cubecl.toml "$out"
cat > "$out/run" << RUN
#!/usr/bin/env bash
# What this machine's GPU makes of it: gpu/run [DEVICE]
set -u
cd "\$(dirname "\$0")"
device=\${1:-$backend}
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2> /dev/null
echo && echo "== speed of tasks at once" && ./stacked "\$device" 1,5,20 64 100 2
for python in \${PYTHON:-python3}; do
  echo && echo "== PyTorch and JAX on the same GPU, task steps a second"
  for tasks in 1 5 20; do "\$python" gpu.py "\$tasks" || true; done
done
echo && echo "== backends against each other" && LEAP_REQUIRE=\${device%%:*} ./parity --nocapture
RUN
chmod +x "$out/run"
# The programs have most of their code in common, and a dictionary of that size finds it again.
tar c -C "$(dirname "$out")" "$(basename "$out")" | xz --x86 --lzma2=preset=4,dict=640MiB > "$out.tar.xz"
size=$(stat -c %s "$out.tar.xz")
echo "$out.tar.xz: $((size / 1024 / 1024)) MiB"
[ "$size" -le "$most" ] || { echo "it is larger than $((most / 1024 / 1024)) MiB" && exit 1; }
# A machine without a driver is told so in a line.
if ! compgen -G '/dev/nvidia*' > /dev/null && [ "$backend" = cuda ]; then
  "$out/stacked" cuda || true
fi
