"""A config.json is read as in the reference: keys that it lacks keep their defaults."""

import json

import pytest

from moondream_beam.models.moondream.checkpoints.releases import RELEASES
from moondream_beam.models.moondream.network.config import MoondreamConfig, TextConfig, VisionConfig, read_json
from moondream_beam.models.moondream.network.prompts import supported_tasks
from moondream_beam.models.tasks import Point


@pytest.fixture
def read(tmp_path):
    def read(content):
        (tmp_path / "config.json").write_text(json.dumps(content))
        return MoondreamConfig().with_overrides(read_json(tmp_path / "config.json"))

    return read


@pytest.mark.parametrize("content", [{}, {"config": {}}, {"model_type": "moondream1", "config": {"text": {}}}])
def test_an_empty_config_gives_the_defaults(read, content):
    assert read(content) == MoondreamConfig()


def test_given_numbers_replace_the_defaults(read):
    config = read({"config": {"text": {"dim": 1024, "n_heads": 16}, "tokenizer": {"eos_id": 50256}}})
    assert (config.text.dim, config.text.n_heads, config.text.ff_dim) == (1024, 16, 8192)
    assert (config.tokenizer.eos_id, config.tokenizer.answer_id) == (50256, 3)


def test_unknown_keys_of_the_training_code_are_skipped(read):
    assert read({"config": {"text": {"group_size": 128}, "region": {"group_size": None}}}) == MoondreamConfig()


def test_given_templates_replace_the_defaults(read):
    templates = {"query": {"prefix": [1, 2], "suffix": [9]}, "caption": {"short": [7]}}
    found = read({"config": {"tokenizer": {"templates": templates}}}).tokenizer.templates
    assert found.query == ((1, 2), (9,))
    assert found.caption == {"short": (7,)}
    assert found.detect == ((1, 7235, 476, 2), (3,))


def test_a_prefix_attn_that_does_not_fit_the_patches_is_refused(read):
    with pytest.raises(ValueError, match="prefix_attn 700: give 730, .* 729 patches, or 0"):
        read({"config": {"text": {"prefix_attn": 700}}})


def test_a_causal_prefix_has_the_same_length(read):
    config = read({"config": {"text": {"prefix_attn": 0}}})
    assert (config.text.prefix_attn, config.prefix_length) == (0, 730)


def test_a_margin_of_half_a_crop_is_refused(read):
    with pytest.raises(ValueError, match="overlap_margin 14: give less than half of the 27 patches"):
        read({"config": {"vision": {"overlap_margin": 14}}})


def test_derived_numbers_match_the_published_checkpoint():
    vision, text = VisionConfig(), TextConfig()
    assert (vision.grid, vision.margin_pixels, vision.tile_stride) == (27, 56, 266)
    assert (text.head_dim, text.rotary_dim) == (64, 32)


@pytest.mark.parametrize("key", ["text_config", "phi_config"])
def test_the_decoder_of_a_file_of_2024_is_read(read, key):
    later = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 16}
    text = read({key: {**later, "max_position_embeddings": 1000, "vocab_size": 500, "model_type": "phi"}}).text
    assert (text.dim, text.ff_dim, text.n_layers, text.n_heads, text.n_kv_heads) == (1024, 4096, 12, 16, 16)
    assert (text.max_context, text.vocab_size) == (1000, 500)


def test_the_decoder_of_a_file_of_the_first_weeks_is_read(read):
    text = read(
        {"phi_config": {"n_embd": 1024, "n_inner": None, "n_layer": 12, "n_head": 16, "n_positions": 1000}}
    ).text
    assert (text.dim, text.ff_dim, text.n_layers, text.n_heads, text.max_context) == (1024, 8192, 12, 16, 1000)


def test_missing_keys_keep_the_defaults_of_another_generation(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": {"text": {"dim": 1024}}}))
    defaults = RELEASES["2024-08-26"].config
    config = defaults.with_overrides(read_json(tmp_path / "config.json"))
    assert (config.text.dim, config.text.prefix_attn, config.region) == (1024, 0, None)
    assert (config.vision, config.tokenizer) == (defaults.vision, defaults.tokenizer)


def test_ids_before_the_image_are_part_of_the_prefix(read):
    config = read({"config": {"text": {"prefix_attn": 733}, "tokenizer": {"before_image": [27, 9060, 29]}}})
    assert config.prefix_length == 733
    assert RELEASES["2024-03-06"].config.prefix_length == 733


def test_a_task_with_a_null_template_is_not_supported(read):
    templates = {"query": None, "detect": None, "caption": None}
    found = read({"config": {"tokenizer": {"templates": templates}}}).tokenizer.templates
    assert supported_tasks(found) == {Point}


@pytest.mark.parametrize(
    "text, message", [("{", "config.json is not JSON"), ("[]", "config.json holds no JSON object")]
)
def test_a_file_that_is_not_a_json_object_is_refused(tmp_path, text, message):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=f"{message}.*fetch the file again"):
        read_json(tmp_path / "config.json")
