"""``env`` prints what a bug report needs, and no value of a credential."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomllib

from moondream_beam.pipelines.commands.env import CREDENTIALS, EXTRAS, PROXIES, found_credentials

ROOT = Path(__file__).parents[3]


def test_each_line_has_a_name_and_the_versions_are_those_of_this_machine(command):
    status, stdout, stderr = command("env")
    assert (status, stderr) == (0, "")
    found = {line[:16].strip(): line[16:] for line in stdout.splitlines()}
    assert {"package", "python", "packages", "machine", "pytorch", "nvidia", "java", "prism", "credentials"} <= set(
        found
    )
    assert {f"[{extra}]" for extra in EXTRAS} <= set(found)
    assert "apache-beam 2." in found["packages"] and "--device auto is" in found["pytorch"]


def test_every_extra_of_the_package_is_looked_for():
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(named) - {"test"}


def test_no_value_of_a_credential_or_a_proxy_is_printed(command, monkeypatch):
    variables = [name for names, _ in CREDENTIALS.values() for name in names]
    for name in (*variables, *PROXIES):
        monkeypatch.setenv(name, "http://me:s3cr3t@host")
    _, stdout, _ = command("env")
    assert "s3cr3t" not in stdout and all(name in stdout for name in (*variables, *PROXIES))


def test_credentials_are_named_by_service_variable_and_file(tmp_path):
    assert list(found_credentials({}, tmp_path)) == []
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_secret_access_key = s3cr3t\n")
    found = list(found_credentials({"FAL_KEY": "k", "HF_TOKEN": ""}, tmp_path))
    assert found == ["fal: FAL_KEY", "AWS: ~/.aws/credentials"]


@pytest.mark.parametrize(("program", "line"), [("java", "java            broken 1"), ("nvidia-smi", "driver 560.35")])
def test_programs_are_asked_for_their_version(program, line, tmp_path, command, monkeypatch):
    text = line.split()[-1] if program == "nvidia-smi" else "broken 1"
    (tmp_path / program).write_text(f"#!/bin/sh\necho '{text}' >&2\n")
    (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert line in command("env")[1]
    (tmp_path / program).unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not found" in command("env")[1]


def test_an_argument_is_refused(command):
    status, _, stderr = command("env", "out")
    assert status == 2 and "unexpected argument out" in stderr
