#!/usr/bin/env bash
# pyarrow 25.0.1, seen on 2026-11-30 with Python 3.11 on 2 cores.
#
# pyarrow.json.read_json reads blocks in threads. If the first line has nested values (a struct with a list, or a list of
# structs) and the lines of later blocks have null or an empty list there, the same valid file is read at one time, and
# raises ArrowNotImplementedError at another: "JSON conversion to struct<... list<item: timestamp[s]>> is not supported".
# Blocks have 1 MiB by default, so small files never show it. With use_threads=False each read succeeds.
#
# Output seen (37 of 100 reads failed in one run; the check asks for one of 400):
#   a file of 10 MB, default options: some reads raise ArrowNotImplementedError, the others give 40001 rows
#   without threads: all 100 reads give 40001 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==25.0.1
cat > "$work/show.py" <<'PY'
import json
import sys

import pyarrow as pa
import pyarrow.json

path = sys.argv[1]
first = {"file": "a.jpg", "meta": {"a": 1.5, "b": ["x"]}, "boxes": [{"label": "cat", "x": 0.1}]}
with open(path, "w") as lines:
    lines.write(json.dumps(first) + "\n")
    for number in range(40_000):
        row = {"file": f"{number}.jpg" + "x" * 200, "meta": None, "boxes": []}
        lines.write(json.dumps(row) + "\n")

rows, failed = set(), 0
for _ in range(400):
    try:
        rows.add(pyarrow.json.read_json(path).num_rows)
    except pa.ArrowNotImplementedError as error:
        assert "JSON conversion to struct" in str(error)
        failed += 1
    if failed and rows:
        break
outcome = "some reads raise ArrowNotImplementedError, the others" if failed else "all reads"
print(f"a file of 10 MB, default options: {outcome} give {', '.join(map(str, rows))} rows")

options = pyarrow.json.ReadOptions(use_threads=False)
rows = {pyarrow.json.read_json(path, options).num_rows for _ in range(100)}
print(f"without threads: all 100 reads give {', '.join(map(str, rows))} rows")
PY
"$work/venv/bin/python" "$work/show.py" "$work/rows.jsonl" | tee "$work/seen"
diff "$work/seen" - <<'SEEN'
a file of 10 MB, default options: some reads raise ArrowNotImplementedError, the others give 40001 rows
without threads: all 100 reads give 40001 rows
SEEN
