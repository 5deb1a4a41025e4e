"""How long a state value can be under the grammar."""

WORDS = 3  # in a value
LETTERS = 16  # in a word


def fills_a_value(text: str) -> bool:
    """Whether ``text`` is as long as a value can be under the grammar of states, so that nothing
    but the value's end may follow it."""
    words = text.split(" ")
    return len(words) >= WORDS and len(words[-1]) >= LETTERS
