"""What makes a row suspicious, as conditions of SQL over ``data``: rules that can be counted, not judgement."""

from __future__ import annotations

from typing import NamedTuple

import duckdb
from duckdb.func import PythonUDFType

from .repetition import different_runs

# A text that says the same again: fewer than this share of the runs of LOOP_WINDOW characters at its end are different.
# Of a long text only the last LOOP_LOOKED_AT characters are looked at: where it ends is where it is caught in a loop.
LOOP_DISTINCT, LOOP_WINDOW, LOOP_LENGTH, LOOP_LOOKED_AT = 0.5, 8, 40, 1000
# One text on so many pictures; shorter ones, such as "yes", are answers.
SHARED_PICTURES, SHARED_LENGTH = 5, 24
REFUSAL = (
    r"^\s*(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|"
    r"i (can['’]?t|cannot|can not|don['’]t have the ability)\b|i(['’]m| am) (unable|not able)\b|unable to )"
    r"|\b(cannot|can['’]t|unable to|not able to) (assist|help|comply|provide|fulfil)"
)
BOILERPLATE = (
    r"^\s*(in (this|the) (image|picture|photo|photograph|scene)\b|"
    r"(the|this) (image|picture|photo|photograph|scene) (is|shows|depicts|features|displays|captures|presents|"
    r"contains|portrays|showcases|consists)\b|(an?|the) (image|picture|photo|photograph) (of|showing|depicting)\b)"
)
# Python's, as what DuckDB has of its own takes seven times as long, which is most of a report.
_DIFFERENT_RUNS = "different_runs"


class QualityFlag(NamedTuple):
    """A kind of suspicious row: its name, what it means, and the condition that finds it."""

    name: str
    meaning: str
    condition: str


QUALITY_FLAGS = (
    QualityFlag(
        "empty",
        "no text where there should be one",
        r"task IN ('caption', 'query') AND NOT coalesce(regexp_matches(caption, '[^\s\p{Z}]'), false)",
    ),
    QualityFlag("cut off", "the answer ended at its limit of tokens", "finish_reason = 'length'"),
    QualityFlag(
        "loop",
        "says the same over and over",
        f"CASE WHEN length(_ending) >= {LOOP_LENGTH} THEN {_DIFFERENT_RUNS}(_ending) "
        f"< {LOOP_DISTINCT} * (length(_ending) - {LOOP_WINDOW - 1}) ELSE false END",
    ),
    QualityFlag("refusal", "declines instead of answering", f"regexp_matches(caption, $${REFUSAL}$$, 'i')"),
    QualityFlag("boilerplate", "opens with words that say nothing", f"regexp_matches(caption, $${BOILERPLATE}$$, 'i')"),
    QualityFlag(
        "shared",
        f"the very text of {SHARED_PICTURES} pictures or more",
        "(task, prompt, caption) IN (SELECT (task, prompt, caption) FROM shared_texts)",
    ),
)

SHARED_TEXTS = f"""
SELECT task, prompt, caption, count(DISTINCT key) AS pictures FROM data
WHERE length(caption) >= {SHARED_LENGTH} GROUP BY ALL HAVING pictures >= {SHARED_PICTURES}
"""


def define_flags(database: duckdb.DuckDBPyConnection) -> None:
    """Beside the table ``data``, define ``shared_texts``, ``flagged`` and ``flags``."""
    database.create_function(
        _DIFFERENT_RUNS,
        lambda texts: different_runs(texts, LOOP_WINDOW),
        ["VARCHAR"],
        "BIGINT",
        type=PythonUDFType.ARROW,
    )
    database.execute(f"CREATE VIEW shared_texts AS {SHARED_TEXTS}")
    kinds = ", ".join(f"CASE WHEN {condition} THEN '{name}' END" for name, _, condition in QUALITY_FLAGS)
    database.execute(
        f"CREATE VIEW flagged AS "
        f"SELECT * EXCLUDE _ending, list_filter([{kinds}], lambda kind: kind IS NOT NULL) AS _flags "
        f"FROM (SELECT *, right(caption, {LOOP_LOOKED_AT}) AS _ending FROM data)"
    )
    database.execute("CREATE VIEW flags AS SELECT id, key, _flags FROM flagged WHERE len(_flags) > 0")
