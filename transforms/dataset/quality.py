"""Quality flags: rules, written as SQL conditions over ``data``, that find rows which need a second look."""

from __future__ import annotations

from typing import NamedTuple

import duckdb
from duckdb.func import PythonUDFType

from .repetition import count_distinct_ngrams

# A text loops if less than the share LOOP_MAX_DISTINCT of its n-grams of LOOP_NGRAM characters is distinct. Texts below
# LOOP_MIN_LENGTH never loop. Only the last LOOP_TAIL characters count, because a loop goes on to the end of a text.
LOOP_MAX_DISTINCT, LOOP_NGRAM, LOOP_MIN_LENGTH, LOOP_TAIL = 0.5, 8, 40, 1000
# A text is shared if this many pictures have it. Shorter texts, such as "yes", are plain answers and never shared.
SHARED_MIN_PICTURES, SHARED_MIN_LENGTH = 5, 24
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
# Columns that the flags add. In lower case, because DuckDB does not distinguish names by case.
FLAG_COLUMNS = ("_flags", "_ending")
# A function in Python, because DuckDB's own functions take seven times as long, and a report spends its time here.
_COUNT_NGRAMS = "count_distinct_ngrams"


class QualityFlag(NamedTuple):
    """A flag: its name, its meaning for the report, and an SQL condition over ``data`` and ``_ending``.

    ``_ending`` is the last ``LOOP_TAIL`` characters of ``caption``.
    """

    name: str
    meaning: str
    condition: str


QUALITY_FLAGS = (
    QualityFlag(
        "empty",
        "no text, although the task asks for one",
        r"task IN ('caption', 'query') AND NOT coalesce(regexp_matches(caption, '[^\s\p{Z}]'), false)",
    ),
    QualityFlag("cut off", "the answer ended at its token limit", "finish_reason = 'length'"),
    QualityFlag(
        "loop",
        "repeats the same words",
        f"CASE WHEN length(_ending) >= {LOOP_MIN_LENGTH} THEN {_COUNT_NGRAMS}(_ending) "
        f"< {LOOP_MAX_DISTINCT} * (length(_ending) - {LOOP_NGRAM - 1}) ELSE false END",
    ),
    QualityFlag("refusal", "refuses to answer", f"regexp_matches(caption, $${REFUSAL}$$, 'i')"),
    QualityFlag("boilerplate", "begins with an empty phrase", f"regexp_matches(caption, $${BOILERPLATE}$$, 'i')"),
    QualityFlag(
        "shared",
        f"{SHARED_MIN_PICTURES} or more pictures have exactly this text",
        "(task, prompt, caption) IN (SELECT (task, prompt, caption) FROM shared_texts)",
    ),
)

SHARED_TEXTS = f"""
SELECT task, prompt, caption, count(DISTINCT key) AS pictures FROM answers
WHERE length(caption) >= {SHARED_MIN_LENGTH} GROUP BY ALL HAVING pictures >= {SHARED_MIN_PICTURES}
"""


def define_flags(database: duckdb.DuckDBPyConnection) -> None:
    """Create the views ``shared_texts``, ``flagged`` and ``flags`` over ``data`` and ``answers``; see ``Dataset``."""
    database.create_function(
        _COUNT_NGRAMS,
        lambda texts: count_distinct_ngrams(texts, LOOP_NGRAM),
        ["VARCHAR"],
        "BIGINT",
        type=PythonUDFType.ARROW,
    )
    database.execute(f"CREATE VIEW shared_texts AS {SHARED_TEXTS}")
    kinds = ", ".join(f"CASE WHEN {condition} THEN '{name}' END" for name, _, condition in QUALITY_FLAGS)
    database.execute(
        f"CREATE VIEW flagged AS "
        f"SELECT * EXCLUDE _ending, list_filter([{kinds}], lambda kind: kind IS NOT NULL) AS _flags "
        f"FROM (SELECT *, right(caption, {LOOP_TAIL}) AS _ending FROM data)"
    )
    database.execute("CREATE VIEW flags AS SELECT id, key, _flags FROM flagged WHERE len(_flags) > 0")
