"""The best of whole dialogues."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sage_core.config.search import SearchConfig
from sage_core.schema import Candidate
from sage_core.search.dialogue import Dialogue
from sage_core.search.selectors.selector import Ballot, Decision
from sage_core.search.strategies.greedy import Greedy
from sage_core.search.strategies.strategy import Players, Strategy, decide, finished


def best_of_n_dialogue(config: SearchConfig) -> Strategy:
    """The strategy of these settings."""
    return BestOfNDialogue(config.candidates)


@dataclass(frozen=True)
class BestOfNDialogue(Strategy):
    """``candidates`` whole dialogues with one candidate a turn; the selector picks among them.
    Dialogues in which a reply was cut are not compared where there are others.

    The dialogues' first replies, which answer the same situation, are the candidates of the first
    turn of the one that is picked, with the votes of their dialogues.
    """

    candidates: int

    @property
    def options(self) -> int:
        return self.candidates

    @property
    def lines(self) -> int:
        return self.candidates

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        Greedy(1).reply(dialogues, replace(players, selector=None))

    def pick(self, situations: Sequence[Sequence[Dialogue]], players: Players) -> list[Dialogue]:
        courses = []
        for lines in situations:
            spoke = [line for line in lines if len(line.turns) > 1]
            whole = finished([_is_cut(line) for line in spoke])
            courses.append({spoke[at].line: spoke[at].utterances()[1:] for at in whole})
        choices = [
            (
                lines[0],
                Ballot(
                    f"{players.agent.name}/{lines[0].line}/dialogue",
                    lines[0].utterances()[:1],
                    tuple(dict.fromkeys(course.values())),
                ),
            )
            for lines, course in zip(situations, courses, strict=True)
        ]
        decided = [choice for choice in choices if choice[1].candidates]
        decisions = iter(decide(decided, players))
        picked = []
        for lines, course, (_, ballot) in zip(situations, courses, choices, strict=True):
            votes: dict[str, float] = {}
            decision = None
            if ballot.candidates:
                _, decision = next(decisions)
                by_course = dict(zip(ballot.candidates, decision.votes, strict=True))
                votes = {name: by_course[said] for name, said in course.items()}
            picked.append(_joined(lines, votes, decision))
        return picked


def _is_cut(dialogue: Dialogue) -> bool:
    return any(turn.cut for turn in dialogue.turns if turn.role == "assistant")


def _joined(
    lines: Sequence[Dialogue], votes: dict[str, float], decision: Decision | None
) -> Dialogue:
    """The line with most votes, with the first replies of all as candidates of its first turn, and
    the trees of all under their situation."""
    best = max(lines, key=lambda line: votes.get(line.line, float("-inf")))
    joined = replace(
        best,
        turns=list(best.turns),
        nodes=[],
        showings=lines[0].showings,
        generated_tokens=sum(line.generated_tokens for line in lines),
    )
    for line in lines:
        offset = len(joined.nodes)
        for node in line.nodes:
            first = node.parent == 0
            joined.nodes.append(
                replace(
                    node,
                    node=node.node + offset,
                    parent=0 if first else node.parent + offset,
                    votes=votes.get(line.line) if first and len(votes) > 1 else None,
                    chosen=node.chosen and line is best,
                )
            )
    if len(best.turns) > 1 and decision is not None:
        replies: dict[str, Candidate] = {}
        first_reply = best.turns[1]
        for line in [best, *lines]:
            if len(line.turns) > 1:
                reply = line.turns[1]
                points = votes.get(line.line, 0.0)
                candidate = Candidate(reply.content, points, line is best, reply.cut)
                replies.setdefault(reply.content, candidate)
        joined.turns[1] = replace(
            first_reply,
            candidates=tuple(replies.values()),
            notes=(*first_reply.notes, *decision.notes),
        )
    return joined
