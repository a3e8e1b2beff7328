#!/usr/bin/env bash
# img2dataset 1.47.0 and the EXIF orientation of pictures that it encodes again, seen on 2026-11-29 with Python 3.11.
#
# By default img2dataset decodes each picture with OpenCV's IMREAD_UNCHANGED, which ignores the orientation, and writes
# a JPEG without EXIF data. A picture of a telephone then lies on its side, also with --resize_mode no. The orientation
# survives only as a text in the JSON and in the Parquet file beside the tar: "Image Orientation": "Rotated 90 CW".
# This text is also there with --disable_all_reencoding, where the picture still has its orientation. So the text alone
# does not tell whether a picture lies on its side.
#
# Output seen:
#   default: orientation None, size (256, 256), JSON Rotated 90 CW
#   resize_mode=no: orientation None, size (96, 64), JSON Rotated 90 CW
#   disable_all_reencoding=True: orientation 6, size (96, 64), JSON Rotated 90 CW
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q img2dataset==1.47.0 opencv-python-headless==4.14.0.94 pillow==12.3.0
cat > "$work/show.py" <<'PY'
import glob
import io
import json
import os
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

from img2dataset import download
from PIL import Image

ORIENTATION = 0x0112
WAYS = {"default": {}, "resize_mode=no": {"resize_mode": "no"}, "disable_all_reencoding=True": {"disable_all_reencoding": True}}
WANTED = {
    "default": (None, (256, 256), "Rotated 90 CW"),
    "resize_mode=no": (None, (96, 64), "Rotated 90 CW"),
    "disable_all_reencoding=True": (6, (96, 64), "Rotated 90 CW"),
}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def read(path):
    with tarfile.open(path) as tar:
        files = {os.path.splitext(member.name)[1]: tar.extractfile(member).read() for member in tar}
    image = Image.open(io.BytesIO(files[".jpg"]))
    exif = json.loads(json.loads(files[".json"])["exif"])
    return image.getexif().get(ORIENTATION), image.size, exif["Image Orientation"]


if __name__ == "__main__":
    os.mkdir("www")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.new("RGB", (96, 64), "red").save("www/a.jpg", exif=exif)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory="www"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with open("urls.txt", "w") as file:
        file.write(f"http://127.0.0.1:{server.server_port}/a.jpg\n")
    for number, (name, options) in enumerate(WAYS.items()):
        download(
            url_list="urls.txt", output_folder=f"set{number}", output_format="webdataset", processes_count=1,
            thread_count=1, **options,
        )
        found = read(glob.glob(f"set{number}/*.tar")[0])
        print("SEEN {}: orientation {}, size {}, JSON {}".format(name, *found), flush=True)
        assert found == WANTED[name], (name, found)
PY
cd "$work"
NO_ALBUMENTATIONS_UPDATE=1 "$work/venv/bin/python" show.py > log.txt 2>&1 || { cat log.txt; exit 1; }
grep -o "SEEN .*" log.txt | cut -c6-
