"""Moondream Cloud as a client sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class CloudApi:
    """To come."""

    key: str = "moondream-test-secret-0123456789"
