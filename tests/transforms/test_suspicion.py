"""Suspicious rows are found, and those beside them are not."""

from __future__ import annotations

import pytest
from outputs import publish
from rows import annotation

from moondream_beam.transforms.dataset import Dataset

PLAIN = "A brown dog runs over wet sand while two children watch it from the shade of a striped umbrella."


def suspicions(out, **values):
    with Dataset(str(publish(out, annotation(**values)))) as dataset:
        return dataset.tuples("SELECT suspicions FROM judged")[0][0]


@pytest.mark.parametrize(
    "values, kind",
    [
        ({"caption": ""}, "empty"),
        ({"caption": " \t\n"}, "empty"),
        ({"caption": None, "task": "query"}, "empty"),
        ({"finish_reason": "length"}, "cut off"),
        ({"caption": "a dog and a dog and a dog and a dog and a dog and a dog"}, "loop"),
        ({"caption": PLAIN + " It is wet." * 30}, "loop"),
        ({"caption": "猫在桌子上。" * 12}, "loop"),
        ({"caption": "I'm sorry, but I can't help with that."}, "refusal"),
        ({"caption": "I’m unable to see any person."}, "refusal"),
        ({"caption": "As an AI language model, I see nothing."}, "refusal"),
        ({"caption": "Sadly I cannot assist with identifying people."}, "refusal"),
        ({"caption": "The image shows a dog."}, "boilerplate"),
        ({"caption": "In this photo, a dog runs."}, "boilerplate"),
        ({"caption": "A picture of a dog."}, "boilerplate"),
    ],
)
def test_a_suspicious_row_is_found(tmp_path, values, kind):
    assert suspicions(tmp_path, **values) == [kind]


@pytest.mark.parametrize(
    "values",
    [
        {"caption": PLAIN},
        {"caption": None, "task": "detect", "objects": ()},
        {"caption": "yes", "task": "query"},
        {"caption": "no no no"},
        {"caption": "A sorry sight: a wet dog that cannot swim."},
        {"caption": "An imageboard on a screen; the image is cropped."},
        {"caption": "a small blue triangle, a small red triangle and a small blue square on a grey background"},
        {"caption": "猫在桌子上看着窗外的一只黑色小鸟，旁边放着一杯热茶和一本打开的书。"},
    ],
)
def test_a_plain_row_is_not(tmp_path, values):
    assert suspicions(tmp_path, **values) == []


def test_a_text_on_many_pictures_is_found_and_one_on_few_or_a_short_one_is_not(tmp_path):
    rows = []
    for index in range(5):
        rows.append(annotation(id=f"many {index}", key=f"k{index}", caption="A dog on a beach in the rain."))
        rows.append(annotation(id=f"short {index}", key=f"k{index}", task="query", prompt="A dog?", caption="yes"))
        # Asked again with another sampling: the same picture.
        rows.append(
            annotation(id=f"same {index}", key="k", prompt="long", caption="A cat on a roof in the evening sun.")
        )
    with Dataset(str(publish(tmp_path, *rows))) as dataset:
        found = dataset.tuples("SELECT id, suspicions FROM judged WHERE len(suspicions) > 0 ORDER BY id")
    assert found == [(f"many {index}", ["shared"]) for index in range(5)]
