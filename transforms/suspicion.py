"""What makes a row suspicious, as conditions of SQL over ``data``: rules that can be counted, not judgement."""

from __future__ import annotations

from typing import NamedTuple

import duckdb

# A text that says the same again: fewer than this share of the runs of LOOP_WINDOW characters at its end are different.
# To find a place in a text takes as long as the text, so that only its last LOOP_LOOKED_AT characters are looked at.
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
_WINDOWS = f"length(_ending) - {LOOP_WINDOW - 1}"
_DISTINCT_WINDOWS = (
    f"list_unique(list_transform(range(1, {_WINDOWS} + 1), lambda place: substring(_ending, place, {LOOP_WINDOW})))"
)


class Suspicion(NamedTuple):
    """A kind of suspicious row: its name, what it means, and the condition that finds it."""

    name: str
    meaning: str
    condition: str


SUSPICIONS = (
    Suspicion(
        "empty",
        "no text where there should be one",
        r"task IN ('caption', 'query') AND NOT coalesce(regexp_matches(caption, '[^\s\p{Z}]'), false)",
    ),
    Suspicion("cut off", "the answer ended at its limit of tokens", "finish_reason = 'length'"),
    Suspicion(
        "loop",
        "says the same over and over",
        f"length(_ending) >= {LOOP_LENGTH} AND {_DISTINCT_WINDOWS} < {LOOP_DISTINCT} * ({_WINDOWS})",
    ),
    Suspicion("refusal", "declines instead of answering", f"regexp_matches(caption, $${REFUSAL}$$, 'i')"),
    Suspicion("boilerplate", "opens with words that say nothing", f"regexp_matches(caption, $${BOILERPLATE}$$, 'i')"),
    Suspicion(
        "shared",
        f"the very text of {SHARED_PICTURES} pictures or more",
        "(task, prompt, caption) IN (SELECT (task, prompt, caption) FROM shared_texts)",
    ),
)

SHARED_TEXTS = f"""
SELECT task, prompt, caption, count(DISTINCT key) AS pictures FROM data
WHERE length(caption) >= {SHARED_LENGTH} GROUP BY ALL HAVING pictures >= {SHARED_PICTURES}
"""


def define_suspicions(database: duckdb.DuckDBPyConnection) -> None:
    """Beside the table ``data``, define ``shared_texts``, ``judged`` and ``suspects``."""
    database.execute(f"CREATE VIEW shared_texts AS {SHARED_TEXTS}")
    kinds = ", ".join(f"CASE WHEN {condition} THEN '{name}' END" for name, _, condition in SUSPICIONS)
    database.execute(
        f"CREATE VIEW judged AS "
        f"SELECT * EXCLUDE _ending, list_filter([{kinds}], lambda kind: kind IS NOT NULL) AS _suspicions "
        f"FROM (SELECT *, right(caption, {LOOP_LOOKED_AT}) AS _ending FROM data)"
    )
    database.execute("CREATE VIEW suspects AS SELECT id, key, _suspicions FROM judged WHERE len(_suspicions) > 0")
