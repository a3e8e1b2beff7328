#!/usr/bin/env bash
# Measure the engine on a GPU in at most nine minutes: bash benchmarks/gpu.sh [--preset small] [--device cpu]
#
# Each part has a time limit of its own, so that a failure costs only that part. LIMIT_FACTOR multiplies the limits, for a
# slow device. PYTHON is the interpreter, python3 by default. The results go to $OUT (default:
# gpu-results): results.json, and results.md with the same figures as tables. Needs PyTorch, Pillow, safetensors,
# tokenizers, psutil and the hub's client. The part "pipeline" needs the whole package and is left out without it.
set -u
cd "$(dirname "$0")/.."
out=${OUT:-gpu-results}
mkdir -p "$out"
house=$(mktemp -d)
trap 'rm -rf "$house"' EXIT
ln -s "$PWD" "$house/moondream_beam"
export PYTHONPATH="$house:$PWD/tests:$PWD/benchmarks/engine" PYTHONUNBUFFERED=1
rm -f "$out"/results.json "$out"/part-*.json

# Part and seconds. The sum is below 540.
for part in versions:15 goldens:60 checkpoint:45 answers:130 attention:30 slots:85 tasks:30 naive:25 moondream3:40 profile:35 pipeline:40; do
  name=${part%%:*} limit=${part##*:}
  timeout "$((limit * ${LIMIT_FACTOR:-1}))" "${PYTHON:-python3}" benchmarks/engine/gpu.py "$name" --out "$out/part-$name.json" --weights "$house/weights" "$@" \
    >"$out/$name.log" 2>&1
  echo "$name: status $?, $(tail -n 1 "$out/$name.log" | cut -c1-200)"
done
"${PYTHON:-python3}" benchmarks/engine/gpu.py merge --out "$out" --weights "$house/weights"
