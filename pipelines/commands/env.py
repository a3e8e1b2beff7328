"""``moondream-beam env``: print what a bug report needs. No value of a credential is printed, and nothing is sent."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path

import psutil
import torch
from apache_beam.runners.portability.prism_runner import PrismJobServer

from ...models.moondream.devices import choose_device, choose_dtype

PACKAGES = (
    "apache-beam",
    "torch",
    "numpy",
    "pyarrow",
    "duckdb",
    "pillow",
    "huggingface_hub",
    "tokenizers",
    "safetensors",
    "grpcio",
    "protobuf",
)
# By extra: the modules that the extra installs and that this package imports.
EXTRAS: dict[str, tuple[str, ...]] = {
    "gcp": ("google.cloud.storage", "gcsfs"),
    "aws": ("boto3", "s3fs"),
    "azure": ("azure.storage.blob", "azure.identity", "adlfs"),
    "fal": ("fal_client",),
    "cloud": ("httpx",),
    "openai": ("httpx",),
    "spark": ("pyspark",),
    "transformers": ("transformers", "torchvision", "num2words"),
    "yaml": ("yaml", "docstring_parser"),
    "heif": ("pillow_heif",),
    "codecs": ("imagecodecs",),
    "notebooks": ("ipykernel", "ipywidgets", "datasets", "pandas"),
}
# By service: the environment variables that name or hold credentials, and files below the home folder that do.
CREDENTIALS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Hugging Face": (("HF_TOKEN",), ()),
    "fal": (("FAL_KEY",), ()),
    "Moondream Cloud": (("MOONDREAM_API_KEY",), ()),
    "AWS": (
        ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        (".aws/credentials", ".aws/config"),
    ),
    "Google": (("GOOGLE_APPLICATION_CREDENTIALS",), (".config/gcloud/application_default_credentials.json",)),
    "Azure": (
        ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT_KEY")
        + ("AZURE_CLIENT_ID",),
        (".azure/msal_token_cache.json",),
    ),
}
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
TIMEOUT_S = 10.0


def run(args: argparse.Namespace) -> int:
    """Print the lines and return 0."""
    for name, value in lines(os.environ, Path.home()):
        print(f"{name:<16}{value}")
    return 0


def lines(environment: Mapping[str, str], home: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines as pairs of a name and a text."""
    yield "package", f"moondream-beam {_version('moondream-beam')} in {Path(__file__).parents[2]}"
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = psutil.virtual_memory()
    yield "machine", f"{cpus} CPUs, {memory.total / 1e9:.1f} GB of memory, {memory.available / 1e9:.1f} GB available"
    yield from _devices()
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if not _is_installed(module)]
        yield f"[{extra}]", f"missing: {', '.join(missing)}" if missing else "installed"
    yield "java", _first_line("java", "-version")
    prism = next(iter(sorted(Path(PrismJobServer.BIN_CACHE).glob("*"))), None)
    yield "prism", str(prism or "not in Beam's cache; --runner PrismRunner needs --prism_location=PATH")
    yield "credentials", "; ".join(found_credentials(environment, home)) or "none found"
    proxies = [name for name in PROXIES if environment.get(name)]
    yield "proxies", f"set: {', '.join(proxies)}" if proxies else "none set"


def found_credentials(environment: Mapping[str, str], home: Path) -> Iterator[str]:
    """Yield each service with the names of the variables and files that hold its credentials here, never a value."""
    for service, (variables, files) in CREDENTIALS.items():
        found = [name for name in variables if environment.get(name)]
        found += [f"~/{name}" for name in files if (home / name).is_file()]
        if found:
            yield f"{service}: {', '.join(found)}"


def _devices() -> Iterator[tuple[str, str]]:
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU, without CUDA"
    device = choose_device("auto")
    precision = str(choose_dtype("auto", device)).removeprefix("torch.")
    yield "pytorch", f"built for {built_for}; --device auto is {device}, --dtype auto is {precision}"
    for number in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(number)
        yield (
            f"cuda:{number}",
            f"{gpu.name}, {gpu.total_memory / 1e9:.1f} GB, compute capability {gpu.major}.{gpu.minor}",
        )
    driver = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    cure = "; PyTorch can't use the GPU: see docs/install.md" if driver[:1].isdigit() and device.type != "cuda" else ""
    yield "nvidia", f"driver {driver}{cure}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        # A parent package is missing.
        return False


def _first_line(*command: str) -> str:
    """Return the first line that a program prints, or why there is none."""
    if shutil.which(command[0]) is None:
        return "not found"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]} failed: {type(error).__name__}"
    return next(_filled(done.stdout.splitlines() + done.stderr.splitlines()), f"{command[0]} printed nothing")


def _filled(texts: Iterable[str]) -> Iterator[str]:
    return (text.strip() for text in texts if text.strip())
