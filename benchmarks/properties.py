"""Properties of a reply that `make prove` plants, each as a score for ``search.selector.function``.

They lie in a file of their own, since a search is made again when the file of its score changes.
"""

SHORT_WORDS = 15
"""A reply of at most that many words is short; about half of m1's are, so that the share has room
to rise and to fall."""


def question(reply: str) -> float:
    """1 if the reply ends with a question, else 0."""
    return float(reply.rstrip().endswith("?"))


def no_question(reply: str) -> float:
    """1 if the reply does not end with a question, else 0."""
    return 1 - question(reply)


def short(reply: str) -> float:
    """1 if the reply has at most :data:`SHORT_WORDS` words, else 0."""
    return float(len(reply.split()) <= SHORT_WORDS)


def no_short(reply: str) -> float:
    """1 if the reply has more than :data:`SHORT_WORDS` words, else 0."""
    return 1 - short(reply)
