"""Drive headless Chromium by the DevTools protocol: open pages, press keys, evaluate JavaScript, take screenshots."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --remote-debugging-port=0 --remote-allow-origins=*"
)
START_TIMEOUT_S, RESPONSE_TIMEOUT_S = 60, 60


class Page:
    """A tab. ``complaints`` are its logged errors: of scripts, of the security policy, of loading."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(RESPONSE_TIMEOUT_S))
            if message.get("id") == self._calls:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def open(self, path: Path, width: int, height: int = 900, *, dark: bool = False) -> None:
        """Open a local file in a window of this size in CSS pixels, and wait until it has loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        deadline = time.monotonic() + 60
        while self.ask("document.readyState") != "complete" or self.ask("location.protocol") != "file:":
            assert time.monotonic() < deadline, "the page does not finish loading"
            time.sleep(0.05)

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str) -> None:
        code = {"Tab": 9, "Enter": 13, " ": 32}[key]
        text = {"Enter": "\r", " ": " "}.get(key, "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                text=text * (kind == "keyDown"),
            )

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(params["exceptionDetails"]))
            case "Log.entryAdded":
                self.complaints.append(params["entry"]["text"])
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning"):
                self.complaints.append(json.dumps(params["args"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])


@contextmanager
def chromium(program: str = "chromium") -> Iterator[Page]:
    """Run Chromium within this block, and yield a tab."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile, tempfile.TemporaryFile("w+b") as stderr:
        command = [program, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(command, stderr=stderr, stdout=subprocess.DEVNULL)
        try:
            with _connect(_tab(_address(stderr))) as socket:
                yield Page(socket)
        finally:
            browser.terminate()
            browser.wait(30)


def _address(stderr: Any) -> str:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        stderr.seek(0)
        if found := re.search(rb"DevTools listening on (ws://\S+)", stderr.read()):
            return found[1].decode()
        time.sleep(0.05)
    raise TimeoutError("chromium does not listen")


def _connect(address: str) -> ClientConnection:
    # A screenshot is one large message. A proxy of the environment must not be used for loopback.
    return connect(address, max_size=None, proxy=None)


def _tab(address: str) -> str:
    with _connect(address) as browser:
        browser.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
        while (answer := json.loads(browser.recv(RESPONSE_TIMEOUT_S))).get("id") != 1:
            pass
    host = re.match(r"ws://[^/]+", address)[0]
    return f"{host}/devtools/page/{answer['result']['targetId']}"
