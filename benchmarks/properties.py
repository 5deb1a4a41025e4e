"""The property of a reply that `make prove` plants, as scores for ``search.selector.function``.

It is in a file of its own, since a search is made again when the file of its score changes. A limit
on a reply's length would not do: the measure compares replies of like length.
"""


def question(reply: str) -> float:
    """1 if the reply ends with a question, else 0."""
    return float(reply.rstrip().endswith("?"))


def no_question(reply: str) -> float:
    """1 if the reply does not end with a question, else 0."""
    return 1 - question(reply)
