"""llama.cpp's own server with the random model of tests/golden/gguf: ``python llama_cpp.py [--no-mmproj] PORT``."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

GGUF = Path(__file__).parents[3] / "golden" / "gguf"
SLOTS, CONTEXT = 4, 2048


def serve(port: int, has_vision: bool) -> None:
    """Serve until the process is killed."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias = str(GGUF / "model.gguf"), {"random"}
    if has_vision:
        params.mmproj.path = str(GGUF / "mmproj.gguf")
    params.hostnames, params.port = ["127.0.0.1"], port
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * CONTEXT
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    # An answer must not depend on the requests that are decoded beside it, which change the order of sums.
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    _server = xllamacpp.Server(params)
    threading.Event().wait()


if __name__ == "__main__":
    serve(int(sys.argv[-1]), "--no-mmproj" not in sys.argv)
