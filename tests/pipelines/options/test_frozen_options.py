"""The options of the command stay as they are: scripts of users depend on names, values and defaults."""

from __future__ import annotations

import argparse

import pytest

from moondream_beam.pipelines.cli import build_parser

# Each word is an argument: NAME, or NAME=VALUE if it takes a value, or NAME=[VALUE] if the value is optional.
# A repeatable argument ends in "...", and a required option in "!".
INPUTS = (
    "INPUT... --manifest=FILE... --uri-column=NAME --image-column=NAME --filename-column=NAME --prompt-column=NAME "
    "--root=FOLDER --keep-columns=A,B --skip-empty-prompts --split=NAME --config=NAME "
    "--allow-private-addresses --colour-profiles={ignore,srgb} "
)
TASKS = (
    "--caption=[short|normal|long]... --query=TEXT... --detect=OBJECT... --point=OBJECT... --prompts=FILE... "
    "--json-schema=FILE --reasoning "
)
MODEL = (
    "--model=MODEL --revision=REVISION --tokenizer=PATH --device=DEVICE --dtype={auto,float32,bfloat16,float16} "
    "--batch-size=N --backend={local,transformers,fal,cloud,openai,cloud-batch} --fallback={none,fal,cloud,openai} "
    "--max-cost=USD --price=USD --send-urls --webhook=URL --base-url=URL... --api-key-env=NAME "
    "--no-graphs --request-timeout=SECONDS --max-pixels=N --caption-prompt=LENGTH=TEXT... --prompt-template=TEXT "
)
SAMPLING = "--max-tokens=N --temperature=T --top-p=P --repetition-penalty=R "
FROZEN = {
    "annotate": f"{INPUTS}{TASKS}{MODEL}{SAMPLING}"
    "--output=FOLDER! --runner=RUNNER --engine={beam,spark} --master=URL --workers=N --shard-size=N --limit=N "
    "--checkpoint-every=SECONDS --retry-errors --retry-changed --dedup --max-failure-rate=R "
    "--slice=I/N --gpu=TYPE --worker-memory=SIZE --no-report",
    "estimate": f"{INPUTS}{TASKS}{MODEL}{SAMPLING}--sample=N --price-of=NAME=USD...",
    "status": "OUT --watch=[SECONDS]",
    "report": "OUT --allow-private-addresses",
    "export": "OUT DEST "
    "--to={sidecar,imagefolder,webdataset,coco,jsonl,llava,messages,yolo,labelstudio,fiftyone,kohya}! "
    "--where=SQL --drop-suspicious --copy --link --no-images --split=NAME=SHARE,... --resize=PIXELS "
    "--format={jpg,png,webp} --text-extension=EXT --text-order=PROMPT... --text-lines={all,first} --template=TEXT "
    "--existing={keep,add,replace} --no-picture-check --allow-private-addresses",
    "push": "OUT OWNER/NAME --private --with-images --allow-private-addresses",
    "demo": "--output=FOLDER --no-report",
    "env": "",
}
# Defaults other than None, False and an empty list.
DEFAULTS = {
    "annotate": {
        "keep_columns": "",
        "colour_profiles": "ignore",
        "device": "auto",
        "dtype": "auto",
        "graphs": True,
        "backend": "local",
        "fallback": "none",
        "temperature": 0.2,
        "top_p": 1.0,
        "repetition_penalty": 1.0,
        "runner": "local",
        "engine": "beam",
        "shard_size": 1000,
        "max_failure_rate": 0.0,
        "checkpoint_every": 60.0,
        "report": True,
    },
    "export": {"where": "true", "picture_check": True},
    "demo": {"output": "moondream-demo", "report": True},
}
JOB_ONLY = ("runner", "engine", "workers", "shard_size", "max_failure_rate", "checkpoint_every", "report")
DEFAULTS["estimate"] = {k: v for k, v in DEFAULTS["annotate"].items() if k not in JOB_ONLY} | {"sample": 200}


def commands() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the subcommands by name."""
    (action,) = (one for one in build_parser()._actions if isinstance(one, argparse._SubParsersAction))
    return action.choices


def described(action: argparse.Action) -> str:
    """Return one argument in the notation of FROZEN."""
    value = (
        action.metavar or f"{{{','.join(action.choices)}}}" if action.choices else action.metavar or action.dest.upper()
    )
    repeatable = "..." if action.nargs == "*" or isinstance(action, argparse._AppendAction) else ""
    if not action.option_strings:
        return f"{value}{repeatable}"
    (name,) = action.option_strings
    if action.nargs == 0:
        return name
    value = f"[{value}]" if action.nargs == "?" else value
    return f"{name}={value}{repeatable}{'!' if action.required else ''}"


def test_there_are_these_commands():
    assert list(commands()) == ["annotate", "estimate", "status", "report", "export", "push", "demo", "env"]


@pytest.mark.parametrize("command", FROZEN)
def test_a_command_has_these_options(command):
    actions = [one for one in commands()[command]._actions if not isinstance(one, argparse._HelpAction)]
    assert {described(action) for action in actions} == set(FROZEN[command].split())


@pytest.mark.parametrize("command", FROZEN)
def test_options_have_these_defaults(command):
    actions = [one for one in commands()[command]._actions if not isinstance(one, argparse._HelpAction)]
    found = {one.dest: one.default for one in actions if one.default not in (None, []) and one.default is not False}
    assert found == DEFAULTS.get(command, {})
