"""Which requests of a search had no answer, from what its dialogues say of themselves.

So a search that was stopped and went on counts what came before.
"""

from collections.abc import Sequence

from sage_core.answers.outcomes import READ
from sage_core.answers.tally import Tally
from sage_core.search.dialogue import FAILED
from sage_core.search.selfplay import Found

SEARCH = "search.selfplay.max_unread_share"
ROLLOUTS = "evaluation.selfplay.max_unread_share"


def tally_of(found: Sequence[Found]) -> Tally:
    """The selector's answers, each order that it was shown being one, and the dialogues, which are
    unread where a player's request failed."""
    tally = Tally()
    for each in found:
        failed = each.trajectory.ended.startswith(FAILED)
        tally.add("dialogues", each.trajectory.trajectory_id, "failed" if failed else READ,
                  each.trajectory.ended)  # fmt: skip
        for showing in each.showings:
            tally.add("selector", f"{showing.ballot_id}/{showing.shuffle}", showing.outcome)
    return tally
