"""What a vision server tells about itself: its kind, the name of its model, and the revision of that model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..dispatch.rate_limiter import Clock
from ..http.errors import AccountError, CallError, one_line
from .transport import BusyError, ServerClient

log = logging.getLogger(__name__)

UNKNOWN = "unknown"
# Kinds by ``owned_by`` of their models.
OWNERS = {
    "vllm": "vllm",
    "sglang": "sglang",
    "llamacpp": "llama.cpp",
    "library": "ollama",
    "lmdeploy": "lmdeploy",
    "organization_owner": "lmstudio",
}
# The name of the field for a repetition penalty.
PENALTY_FIELDS = {
    "vllm": "repetition_penalty",
    "sglang": "repetition_penalty",
    "lmdeploy": "repetition_penalty",
    "llama.cpp": "repeat_penalty",
}
# Kinds that reject a prompt that is longer than the context. Others may cut the prompt silently.
REJECTS_LONG_PROMPTS = ("vllm", "sglang", "lmdeploy", "llama.cpp")
# Kinds that ignore ``response_format`` silently.
IGNORES_SCHEMAS = ("transformers",)
MAX_NAMES = 5
# How long the start of a command waits for a server that loads its model. Large weights take minutes.
LOADING_S = 600


class ServerInfo(NamedTuple):
    """A server's kind, such as ``vllm`` or ``unknown``; the model; and its revision."""

    kind: str
    model: str
    revision: str = UNKNOWN


def discover(client: ServerClient, model: str | None) -> ServerInfo:
    """Return what the server tells. ``model``: the wanted model; None for the only one that the server has.

    Raises:
        ValueError: if no model is given and the server has several or names none, or llama.cpp has another one.
        CallError: if the server can't be reached.
        AccountError: if the server refuses the key.
    """
    entries = _list_models(client)
    names = [str(entry["id"]) for entry in entries]
    if model is None:
        if len(names) != 1:
            found = ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")
            raise ValueError(f"{client.name} has {found or 'no list of its models'}: name one with --model")
        model = names[0]
    entry = entries[names.index(model)] if model in names else (entries[0] if entries else {})
    kind = kind_of(entry)
    if kind == "llama.cpp" and model not in names:
        # It ignores the name, so the rows would name a model that has not answered.
        raise ValueError(f"{client.name} has {', '.join(names)}, not {model}: leave out --model, or name that one")
    return ServerInfo(kind, model, _revision(client, kind, model, entry))


def kind_of(entry: Mapping[str, Any]) -> str:
    """Return the kind of the server that lists a model with this entry, or ``UNKNOWN``."""
    if isinstance(entry.get("status"), dict) and "meta" not in entry:
        return "transformers"
    return OWNERS.get(str(entry.get("owned_by")), UNKNOWN)


def _list_models(client: ServerClient) -> list[dict[str, Any]]:
    """Return the entries of ``/models`` that have an id; none if the server has no such list."""
    try:
        data = client.models().get("data")
    except AccountError as error:
        if " answered 404" in str(error):
            return []
        raise
    entries = data if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("id")]


def _revision(client: ServerClient, kind: str, model: str, entry: Mapping[str, Any]) -> str:
    """Return the version of the weights as the server tells it, or ``UNKNOWN``.

    Ollama: the digest. llama.cpp: the name and size of the file. SGLang: its weight version. vLLM: the path of the
    weights. LM Studio: the quantization. transformers serve: what follows ``@`` in the name.
    """
    told: Any = None
    if kind == "ollama":
        told = _ollama_entry(client, "/api/tags", model).get("digest")
    elif kind == "llama.cpp":
        path, meta = str(client.look_up("/props").get("model_path") or ""), entry.get("meta")
        size = meta.get("size") if isinstance(meta, dict) else None
        told = f"{path.replace(chr(92), '/').rpartition('/')[2] or model} of {size} bytes" if size else None
    elif kind == "sglang":
        info = client.look_up("/get_model_info")
        told = info.get("weight_version") if info.get("weight_version") != "default" else None
    elif kind == "vllm":
        told = entry.get("root") if entry.get("root") != model else None
    elif kind == "lmstudio":
        data = client.look_up("/api/v0/models").get("data")
        found = [each for each in data if isinstance(each, dict) and each.get("id") == model] if data else []
        told = found[0].get("quantization") if found else None
    elif kind == "transformers":
        told = model.partition("@")[2]
    return str(told) if told else UNKNOWN


def loaded_context(client: ServerClient, info: ServerInfo) -> int | None:
    """Return Ollama's context in tokens, which is known while the model is loaded; None for other servers."""
    length = _ollama_entry(client, "/api/ps", info.model).get("context_length") if info.kind == "ollama" else None
    return length if type(length) is int and length > 0 else None


def _ollama_entry(client: ServerClient, path: str, model: str) -> dict[str, Any]:
    """Return the entry of a model in a list of Ollama's own API; empty if there is none. The default tag is latest."""
    listed = client.look_up(path).get("models")
    wanted = model if ":" in model else f"{model}:latest"
    found = [each for each in listed if isinstance(each, dict) and each.get("name") == wanted] if listed else []
    return found[0] if found else {}


def discover_all(clients: Sequence[ServerClient], model: str | None, clock: Clock) -> tuple[ServerInfo, list[str]]:
    """Return what the servers tell, and a warning for each server that can't be reached.

    If no server answers, and one is not ready, wait up to ``LOADING_S`` seconds: it may be loading its model.

    Raises:
        ValueError: if no server can be reached, one refuses the key, or they have different models or revisions.
    """
    infos, failures = _discover_each(clients, model)
    end, is_logged = clock.now() + LOADING_S, False
    while not infos and (busy := _busy(failures)) is not None and clock.now() < end:
        if not is_logged:
            log.warning("%s; waiting up to %d s until a server is ready", one_line(str(busy)), LOADING_S)
            is_logged = True
        clock.sleep(1.0)
        infos, failures = _discover_each(clients, model)
    warnings = [
        f"{error}: wait until the server is ready, or leave it out"
        if isinstance(error, BusyError)
        else f"{error}: check the address, and start the server"
        for error in failures
    ]
    if not infos:
        raise ValueError("; ".join(warnings))
    (first_url, first), *others = infos.items()
    for url, info in others:
        if info != first:
            raise ValueError(
                f"base URL {url} has {info.model}, revision {info.revision}, at {info.kind}, and {first_url} has "
                f"{first.model}, revision {first.revision}, at {first.kind}: give servers with the same model"
            )
    return first, warnings


def _busy(failures: Sequence[CallError]) -> BusyError | None:
    return next((error for error in failures if isinstance(error, BusyError)), None)


def _discover_each(clients: Sequence[ServerClient], model: str | None) -> tuple[dict[str, ServerInfo], list[CallError]]:
    """Return what each server that answers tells, by URL, and the errors of the others.

    Raises:
        ValueError: if a server refuses the key, or as ``discover``.
    """
    infos: dict[str, ServerInfo] = {}
    failures: list[CallError] = []
    for client in clients:
        try:
            infos[client.url] = discover(client, model)
        except CallError as error:
            failures.append(error)
        except AccountError as error:
            raise ValueError(str(error)) from error
    return infos, failures
