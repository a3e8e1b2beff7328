"""Clients of Beam's file system for ``s3://``, which all operations of a process share.

Beam makes a client of boto3 for each operation on a file. A client takes 0.14 seconds of a core, and a shard is
published by about thirty operations.
"""

from __future__ import annotations

import os
import threading
import time
from types import SimpleNamespace
from typing import Any

from apache_beam.io.aws.clients.s3 import boto3_client
from botocore.config import Config

from .base import MAX_CONNECTIONS

# After this time a new client reads the files of credentials again, which another program may have renewed.
MAX_AGE_S = 300.0
_ENVIRONMENT = ("AWS_", "BOTO_")

_lock = threading.Lock()
# Creation time and client, by process, environment and options.
_clients: dict[tuple[Any, ...], tuple[float, Any]] = {}


class SharedSession:
    """Takes the place of ``boto3.session.Session`` in Beam. Threads may share a client of boto3."""

    def client(self, **options: Any) -> Any:
        """Return the client with these options of ``Session.client``, and make one if there is none of this age."""
        # A client does not survive a fork, and reads the environment when it is made.
        environment = frozenset(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT))
        key = (os.getpid(), environment, *sorted(options.items()))
        with _lock:
            oldest = time.monotonic() - MAX_AGE_S
            for each in [each for each, (made, _) in _clients.items() if made < oldest]:
                del _clients[each]
            if key not in _clients:
                config = Config(max_pool_connections=MAX_CONNECTIONS)
                _clients[key] = time.monotonic(), _BOTO3.session.Session().client(**options, config=config)
            return _clients[key][1]


_MODULE: Any = boto3_client
_BOTO3: Any = _MODULE.boto3


def share_clients() -> None:
    """Let Beam take its clients from ``SharedSession``."""
    _MODULE.boto3 = SimpleNamespace(session=SimpleNamespace(Session=SharedSession))
