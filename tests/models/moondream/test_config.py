"""A configuration is read as the reference reads it: what a file lacks keeps its default."""

import json

import pytest

from moondream_beam.models.moondream.config import MoondreamConfig, TextConfig, VisionConfig


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / "config.json").write_text(json.dumps(content))
        return MoondreamConfig.read(tmp_path / "config.json")

    return read


@pytest.mark.parametrize("content", [{}, {"config": {}}, {"model_type": "moondream1", "config": {"text": {}}}])
def test_the_published_checkpoint_says_nothing_and_gets_the_defaults(read, content):
    assert read(content) == MoondreamConfig()


def test_given_numbers_replace_the_defaults_and_others_stay(read):
    config = read({"config": {"text": {"dim": 1024, "n_heads": 16}, "tokenizer": {"eos_id": 50256}}})
    assert (config.text.dim, config.text.n_heads, config.text.ff_dim) == (1024, 16, 8192)
    assert (config.tokenizer.eos_id, config.tokenizer.answer_id) == (50256, 3)


def test_keys_of_the_training_code_are_passed_over(read):
    assert read({"config": {"text": {"group_size": 128}, "region": {"group_size": None}}}) == MoondreamConfig()


def test_templates_are_read_and_those_not_given_keep_their_default(read):
    templates = {"query": {"prefix": [1, 2], "suffix": [9]}, "caption": {"short": [7]}}
    found = read({"config": {"tokenizer": {"templates": templates}}}).tokenizer.templates
    assert found.query == ((1, 2), (9,))
    assert found.caption == {"short": (7,)}
    assert found.detect == ((1, 7235, 476, 2), (3,))


def test_a_prefix_that_is_not_the_picture_is_refused(read):
    with pytest.raises(ValueError, match="prefix_attn 700: it must be 729 patches and a BOS"):
        read({"config": {"text": {"prefix_attn": 700}}})


def test_a_prefix_may_be_causal_and_is_as_long(read):
    config = read({"config": {"text": {"prefix_attn": 0}}})
    assert (config.text.prefix_attn, config.prefix_length) == (0, 730)


def test_a_margin_that_eats_the_crop_is_refused(read):
    with pytest.raises(ValueError, match="overlap_margin 14 leaves nothing"):
        read({"config": {"vision": {"overlap_margin": 14}}})


def test_derived_numbers_are_those_of_the_published_checkpoint():
    vision, text = VisionConfig(), TextConfig()
    assert (vision.grid, vision.margin, vision.window) == (27, 56, 266)
    assert (text.head_dim, text.rotary_dim) == (64, 32)
