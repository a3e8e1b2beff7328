"""The answers of a Hugging Face Hub about buckets, whose files have no commits."""

from __future__ import annotations

import json


def answer_bucket(handler, files, action, path):
    """Answer a request about a bucket with these files: what it is, its tree, some of its paths, or a file."""
    if action == "resolve":
        if path not in files:
            return handler.refuse(404, "EntryNotFound")
        return handler.send_part(path, files[path], {"Accept-Ranges": "bytes"})
    if action == "paths-info":
        return handler.send_json([_listed(each, files) for each in json.loads(handler.body)["paths"] if each in files])
    if action == "tree":
        # As the real hub, it takes a folder for the beginning of names.
        return handler.send_json([_listed(each, files) for each in sorted(files) if each.startswith(path or "")])
    about = {"id": "ann/photos", "private": False, "createdAt": "2026-02-06T17:37:57.000Z", "size": 1, "totalFiles": 1}
    return handler.send_json(about)


def _listed(path, files):
    return {
        "type": "file",
        "path": path,
        "size": len(files[path]),
        "xetHash": "0" * 64,
        "mtime": "2026-02-06T17:37:57Z",
    }
