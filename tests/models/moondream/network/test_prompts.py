"""Tasks become the token ids that the reference feeds, and token ids become text."""

import pytest

from moondream_beam.models.moondream.network.config import Templates
from moondream_beam.models.moondream.network.prompts import prompt_ids
from moondream_beam.models.tasks import Caption, Query


def test_prompts_are_those_of_the_reference(golden, run):
    templates = golden.engine.config.tokenizer.templates
    assert prompt_ids(run.task, templates, golden.engine.tokenizer) == run.wanted["prompt"]


def test_a_question_is_taken_as_it_is(golden):
    tokenizer, templates = golden.engine.tokenizer, golden.engine.config.tokenizer.templates
    prompt = prompt_ids(Query("  what color?\n"), templates, tokenizer)
    assert tokenizer.decode(prompt[3:-2]) == "  what color?\n"


def test_the_published_checkpoint_has_its_own_captions(golden):
    assert prompt_ids(Caption("long"), Templates(), golden.engine.tokenizer) == [1, 32708, 2, 4059, 3]


def test_tokens_become_the_text_of_the_reference(golden):
    for run in golden.runs:
        if "ids" in run.wanted:
            assert golden.engine.tokenizer.decode(run.wanted["ids"]) == run.wanted["text"]


def test_control_tokens_vanish_from_text(golden):
    tokenizer = golden.engine.tokenizer
    assert tokenizer.decode([0, 3, *tokenizer.encode("a dog"), 5, 20]) == "a dog"


@pytest.mark.parametrize("text", ["naïve 猫 🐈", "a\0b", "\n\t "])
def test_any_text_comes_back_from_its_tokens(golden, text):
    tokenizer = golden.engine.tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_half_of_a_surrogate_pair_is_refused(golden):
    with pytest.raises(ValueError, match="surrogates not allowed"):
        golden.engine.tokenizer.encode("a \ud800")
