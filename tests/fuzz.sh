#!/usr/bin/env bash
# Fuzzes the parsers of tests/parsers.rs with libFuzzer, on stable Rust and with a C++ compiler:
#
#   bash tests/fuzz.sh SECONDS [PARSER...]
#
# Each for so many seconds, two side by side. New inputs go to target/fuzz/corpus, one that fails to target/fuzz/crashes.
# `bash tests/fuzz.sh keep` brings the 60 shortest of a set of inputs that reaches the same code into tests/corpus.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?'usage: bash tests/fuzz.sh SECONDS|keep [PARSER...]'}
shift
parsers=("$@")
if [ ${#parsers[@]} = 0 ]; then
  mapfile -t parsers < <(sed -n '/^parsers!\[/,/^\]/s/^ *\(\w*\),$/\1/p' tests/parsers.rs)
fi

# Coverage without a sanitizer.
flags="--cfg fuzzing_libfuzzer -Cpasses=sancov-module"
for option in level=4 inline-8bit-counters pc-table trace-compares stack-depth; do
  flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
target=target/fuzz
host=$(rustc -vV | sed -n 's/host: //p')
RUSTFLAGS="$flags" cargo build -p leap-tests --test parsers --target-dir "$target" --target "$host"
built=$(ls -t "$target/$host/debug/deps"/parsers-* | grep -v '\.d$' | head -n 1)

for parser in "${parsers[@]}"; do
  new=$target/corpus/$parser
  kept=tests/corpus/$parser
  mkdir -p "$new" "$kept" "$target/crashes"
  if [ "$seconds" = keep ]; then
    small=$(mktemp -d)
    PARSER=$parser "$built" -set_cover_merge=1 "$small" "$new" "$kept" > "$target/$parser.log" 2>&1
    find "$kept" -type f ! -name 'found-*' -delete # Those found faults once.
    find "$small" -type f -printf '%s %p\n' | sort -n | head -n 60 | cut -d' ' -f2- | xargs -I{} cp {} "$kept"
    rm -r "$small"
    continue
  fi
  while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n || true; done
  PARSER=$parser "$built" "$new" "$kept" "-artifact_prefix=$target/crashes/$parser-" "-max_total_time=$seconds" \
    -max_len=4096 -rss_limit_mb=4096 -timeout=20 -print_final_stats=1 > "$target/$parser.log" 2>&1 &
done
wait
if [ "$seconds" != keep ]; then
  for parser in "${parsers[@]}"; do
    echo "$parser: $(sed -n 's/stat::number_of_executed_units: *//p' "$target/$parser.log") inputs"
  done
  ls "$target/crashes"
fi
