"""Prompts have the token ids of the reference, and token ids are decoded to text."""

import pytest

from moondream_beam.models.moondream.network.config import Templates
from moondream_beam.models.moondream.network.prompts import prompt_ids
from moondream_beam.models.tasks import Caption, Query


def test_prompts_match_the_reference(golden, run):
    templates = golden.engine.config.tokenizer.templates
    assert prompt_ids(run.task, templates, golden.engine.tokenizer) == run.wanted["prompt"]


def test_a_question_keeps_its_whitespace(golden):
    tokenizer, templates = golden.engine.tokenizer, golden.engine.config.tokenizer.templates
    prompt = prompt_ids(Query("  what color?\n"), templates, tokenizer)
    assert tokenizer.decode(prompt[3:-2]) == "  what color?\n"


def test_the_default_templates_are_those_of_the_published_checkpoint(golden):
    assert prompt_ids(Caption("long"), Templates(), golden.engine.tokenizer) == [1, 32708, 2, 4059, 3]


def test_decoded_text_matches_the_reference(golden):
    for run in golden.runs:
        if "ids" in run.wanted:
            assert golden.engine.tokenizer.decode(run.wanted["ids"]) == run.wanted["text"]


def test_decode_omits_control_tokens(golden):
    tokenizer = golden.engine.tokenizer
    assert tokenizer.decode([0, 3, *tokenizer.encode("a dog"), 5, 20]) == "a dog"


@pytest.mark.parametrize("text", ["naïve 猫 🐈", "a\0b", "\n\t "])
def test_decode_inverts_encode_for_any_text(golden, text):
    tokenizer = golden.engine.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_encode_refuses_half_of_a_surrogate_pair(golden):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        golden.engine.tokenizer.encode("a \ud800")
