"""The rules that look across dialogues: exact and near duplicates of those kept before.

Paths of one reply tree share their beginnings, and jokes are posted again and again; the first of
equals is kept, in the reader's order.
"""

from collections.abc import Callable

from sage_core.config.corpus import CorpusConfig
from sage_core.corpus.filters import across
from sage_core.corpus.rules import RULES
from sage_core.schema import Dialogue

Remember = Callable[[], None]
Admit = Callable[[Dialogue], Remember | None]
"""None = the dialogue repeats one that was kept; else what remembers it once it is kept."""


class Duplicates:
    """Says of dialogues, in order, whether they repeat one that was kept before; its memory grows
    with these."""

    def __init__(self, config: CorpusConfig) -> None:
        self._rules: dict[str, Admit] = {name: RULES.load(name)(config) for name in across(config)}

    def reason(self, dialogue: Dialogue) -> str | None:
        """The rule under which the dialogue is a duplicate; None = it is kept, and remembered."""
        remembered = []
        for name, admit in self._rules.items():
            remember = admit(dialogue)
            if remember is None:
                return name
            remembered.append(remember)
        for remember in remembered:
            remember()
        return None
