#!/usr/bin/env bash
# polars 2.1.0 and the stream inside of an Arrow IPC file, seen on 2026-11-29 with Python 3.11.
#
# The Arrow format says that an IPC file is a stream between two magic strings, with a footer at its end. So a reader of
# streams can skip eight bytes and read the file from its start, without a seek. DataFrame.write_ipc leaves out the
# length in front of the schema message. The footer has the schema again, so readers of files do not notice. A reader of
# the stream fails at the first message. The other messages have their lengths, and write_ipc_stream writes all of them.
#
# Output seen:
#   pyarrow reads the stream in a file of pyarrow: [1, 2]
#   pyarrow reads a file of polars by its footer: [1, 2]
#   pyarrow reads the stream in a file of polars: OSError
#   pyarrow reads a stream of polars: [1, 2]
#   bytes 8 to 15: pyarrow ffffffff78000000, polars 04000000f2ffffff
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q polars==2.1.0 pyarrow==25.0.1
cat > "$work/show.py" <<'PY'
import io

import polars
import pyarrow as pa

MAGIC_BYTES = 8
frame, table = polars.DataFrame({"a": [1, 2]}), pa.table({"a": [1, 2]})
ours, theirs, stream = io.BytesIO(), io.BytesIO(), io.BytesIO()
with pa.ipc.new_file(ours, table.schema) as writer:
    writer.write_table(table)
frame.write_ipc(theirs)
frame.write_ipc_stream(stream)
ours, theirs, stream = ours.getvalue(), theirs.getvalue(), stream.getvalue()


def read(content):
    return pa.ipc.open_stream(content).read_all().column("a").to_pylist()


print("pyarrow reads the stream in a file of pyarrow:", read(ours[MAGIC_BYTES:]))
by_footer = pa.ipc.open_file(theirs).read_all().column("a").to_pylist()
print("pyarrow reads a file of polars by its footer:", by_footer)
assert by_footer == [1, 2]
try:
    read(theirs[MAGIC_BYTES:])
except (pa.ArrowInvalid, OSError) as error:
    print("pyarrow reads the stream in a file of polars:", type(error).__name__)
else:
    raise SystemExit("changed: the file of polars holds a stream")
print("pyarrow reads a stream of polars:", read(stream))
starts = [content[MAGIC_BYTES : MAGIC_BYTES + 8].hex() for content in (ours, theirs)]
print("bytes 8 to 15: pyarrow {}, polars {}".format(*starts))
assert starts[0].startswith("ffffffff") and not starts[1].startswith("ffffffff")
PY
"$work/venv/bin/python" "$work/show.py"
