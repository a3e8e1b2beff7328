#!/usr/bin/env bash
# tarfile of Python 3.11.7 and symbolic links to absolute paths, seen on 2026-11-29 with GNU tar 1.34.
#
# extractfile() of a symbolic link appends an absolute target to the folder of the link, in place of starting at "/".
# A link "set/a.txt" to "/b.txt" gives the content of the member "set/b.txt", which is another file than the one that
# an extracted link names. In an archive of "tar -P", a link to a member that is there raises KeyError.
#
# Output seen:
#   set/a.txt -> /b.txt reads: content of set/b.txt
#   KeyError: linkname '.../set/.../set/b.txt' not found
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/show.py" <<'PY'
import io
import os
import subprocess
import sys
import tarfile

work = sys.argv[1]
with tarfile.open(f"{work}/one.tar", "w") as tar:
    file = tarfile.TarInfo("set/b.txt")
    content = b"content of set/b.txt"
    file.size = len(content)
    tar.addfile(file, io.BytesIO(content))
    link = tarfile.TarInfo("set/a.txt")
    link.type, link.linkname = tarfile.SYMTYPE, "/b.txt"
    tar.addfile(link)
with tarfile.open(f"{work}/one.tar") as tar:
    read = tar.extractfile("set/a.txt").read()
print("set/a.txt -> /b.txt reads:", read.decode())
assert read == content, "changed: an absolute target is not taken for one below the folder of the link"

os.mkdir(f"{work}/set")
with open(f"{work}/set/b.txt", "w") as plain:
    plain.write("b")
os.symlink(f"{work}/set/b.txt", f"{work}/set/a.txt")
subprocess.run(["tar", "-P", "-cf", f"{work}/two.tar", f"{work}/set"], check=True)
with tarfile.open(f"{work}/two.tar") as tar:
    names = {member.name: member for member in tar}
    wanted = next(member for member in names.values() if member.issym())
    assert wanted.linkname in names or wanted.linkname.lstrip("/") in names
    try:
        tar.extractfile(wanted)
    except KeyError as error:
        print("KeyError:", str(error).strip('"').replace(work, "..."))
    else:
        raise SystemExit("changed: a link to a member with an absolute name is followed")
PY
python3 "$work/show.py" "$work"
