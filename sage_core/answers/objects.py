"""The JSON object in an answer: alone, fenced, or with sentences around it."""

import json
import re
from itertools import islice
from typing import Any

_DECODER = json.JSONDecoder(strict=False)  # models write line breaks into strings
_START = re.compile(r"\{(?=\s*[\"}])")
_MOST = 50  # places tried: each failure reads the text up to there


def read_object(text: str, *keys: str) -> dict[str, Any] | None:
    """The last JSON object in ``text`` that has all ``keys``."""
    whole = [found for found in objects_in(text) if all(key in found for key in keys)]
    return whole[-1] if whole else None


def objects_in(text: str) -> list[dict[str, Any]]:
    """The outermost JSON objects in ``text``, in their order; one that was cut is none.

    Their keys are in lower case and without space around them.
    """
    found: list[dict[str, Any]] = []
    end = 0
    for start in islice(_START.finditer(text), _MOST):
        if start.start() < end:
            continue
        try:
            value, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            continue
        found.append({str(key).strip().casefold(): each for key, each in value.items()})
    return found
