"""Run pools of Beam workers, and two hosts on one machine: network namespaces that reach each other only."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
from support.ports import free_port

ADDRESSES = {"driver": "10.77.0.1", "pool": "10.77.0.2"}
# What a pool says once it takes requests.
STARTED = "Started worker pool servicer"
# Each host has its own name, and resolves the name of the other.
RUN = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


@contextmanager
def two_hosts(folder: Path) -> Iterator[dict[str, list[str]]]:
    """Make two hosts while the block runs. Yield, by host, the words that run the command after them on that host.

    Raises:
        OSError: if network namespaces cannot be made on this machine.
    """
    names = {host: f"{host}-{os.getpid()}" for host in ADDRESSES}
    hosts = folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{address} {name}\n" for name, address in ADDRESSES.items()))
    try:
        for name in names.values():
            run("ip", "netns", "add", name)
        one, other = (("name", "wire", "netns", name) for name in names.values())
        run("ip", "link", "add", *one, "type", "veth", "peer", *other)
        for host, name in names.items():
            run("ip", "-n", name, "address", "add", f"{ADDRESSES[host]}/24", "dev", "wire")
            for device in ("lo", "wire"):
                run("ip", "-n", name, "link", "set", device, "up")
        inside = ["unshare", "--uts", "--mount", "sh", "-c", RUN, "sh"]
        before = {host: ["ip", "netns", "exec", name, *inside, host, str(hosts)] for host, name in names.items()}
        run(*before["driver"], "true")
        yield before
    finally:
        for name in names.values():
            with contextlib.suppress(OSError):
                run("ip", "netns", "delete", name)


def run(*words: str) -> None:
    """Run a command.

    Raises:
        OSError: if the command fails, with what it wrote to standard error.
    """
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip())


def is_listening(port: int) -> bool:
    """Return whether a server listens at a port of this machine."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def pool_of_workers(
    folder: Path, before: Sequence[str] = (), host: str = "127.0.0.1"
) -> Iterator[tuple[str, psutil.Process]]:
    """Run a pool of workers while the block runs. Yield its address and its process."""
    port = free_port()
    # The pool starts the first program named python on the path.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command = [*before, sys.executable, "-m", "apache_beam.runners.worker.worker_pool_main", f"--service_port={port}"]
    with open(folder / "said", "w") as said:
        process = subprocess.Popen(command, env={**os.environ, "PATH": path}, stdout=said, stderr=said)
    try:
        # A pool on another host is behind a network that this process does not reach.
        while not ((before and STARTED in (folder / "said").read_text()) or (not before and is_listening(port))):
            assert process.poll() is None, (folder / "said").read_text()
            time.sleep(0.05)
        yield f"{host}:{port}", psutil.Process(process.pid)
    finally:
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait()
