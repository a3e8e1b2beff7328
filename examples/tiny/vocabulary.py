"""The tokenizer and the configuration of the tiny model, in the layout of the official files."""

from __future__ import annotations

import re
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from moondream_beam.models.tasks import DEFAULT_PROMPT
from moondream_beam.models.tiny.scenes import TRAINING_SEEDS, draw

_VOCABULARY_SIZE = 1_024
_NUM_SCENES = 1_500
_NUM_RESERVED = 20
_GRID = 8


def build_tokenizer() -> Tokenizer:
    """Return a byte-level BPE in which every word of the scenes is one token. Other text is encoded by its bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", *(f"<|md_reserved_{number}|>" for number in range(_NUM_RESERVED))]
    trainer = trainers.BpeTrainer(
        vocab_size=_VOCABULARY_SIZE,
        min_frequency=1,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in control],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_words(), trainer)
    return tokenizer


def build_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the content of config.json for this tokenizer."""
    return {
        "architectures": ["HfMoondream"],
        "model_type": "moondream1",
        "config": {**_dimensions(tokenizer.get_vocab_size()), "tokenizer": _prompts(tokenizer)},
        "torch_dtype": "float16",
    }


def _dimensions(vocabulary: int) -> dict[str, Any]:
    return {
        "text": {
            "dim": 128,
            "ff_dim": 512,
            "n_layers": 3,
            "n_heads": 4,
            "n_kv_heads": 4,
            "max_context": 1024,
            "prefix_attn": _GRID**2 + 1,
            "vocab_size": vocabulary,
        },
        "vision": {
            "enc_dim": 128,
            "enc_patch_size": 10,
            "enc_n_layers": 4,
            "enc_ff_dim": 512,
            "enc_n_heads": 4,
            "proj_out_dim": 128,
            "proj_inner_dim": 256,
            "crop_size": 10 * _GRID,
            "in_channels": 3,
            "max_crops": 4,
            "overlap_margin": 2,
        },
        "region": {
            "dim": 128,
            "coord_feat_dim": 64,
            "coord_out_dim": 1024,
            "size_feat_dim": 64,
            "size_out_dim": 2048,
            "inner_dim": 128,
        },
    }


def _prompts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return control ids and templates like those of the official model."""

    def prefix(word: str) -> list[int]:
        return [1, *tokenizer.encode(word).ids, 2]

    lengths = {name: [*prefix("describe"), *tokenizer.encode(name).ids, 3] for name in ("short", "normal", "long")}
    asked = {task: {"prefix": prefix(task), "suffix": [3]} for task in ("query", "detect", "point")}
    ids = {"bos_id": 0, "eos_id": 0, "answer_id": 3, "thinking_id": 4, "coord_id": 5, "size_id": 6}
    ids |= {"start_ground_points_id": 7, "end_ground_id": 9}
    return {**ids, "templates": {"caption": lengths, **asked}}


def _words() -> list[str]:
    """Return every word of the scenes once, with the space before it, so that rare words count like common ones."""
    texts = {"describe", "short", "normal", "long", "query", "detect", "point", DEFAULT_PROMPT}
    for seed in TRAINING_SEEDS[:_NUM_SCENES]:
        scene = draw(seed)
        texts.update(scene.captions.values(), *scene.questions, (f" {name}" for name, _ in scene.things))
    return sorted({word for text in texts for word in re.findall(r" ?\w+|[^\w\s]+", text)})
