"""The best reply at each turn: the paper's search."""

from collections.abc import Sequence
from dataclasses import dataclass

from sage_core.config.search import SearchConfig
from sage_core.engines.base import Completion
from sage_core.schema import Candidate, TrajectoryTurn
from sage_core.search.dialogue import Dialogue, Reply, agent_request, cut_in_states, grow, spoken
from sage_core.search.selectors.selector import Ballot, Decision, reply_ballot
from sage_core.search.strategies.strategy import (
    Players,
    Strategy,
    decide,
    draw,
    finished,
    redraws_of,
    turn_notes,
    until_good,
)


def greedy(config: SearchConfig) -> Strategy:
    """The strategy of these settings."""
    return Greedy(config.candidates, redraws_of(config))


@dataclass(frozen=True)
class Greedy(Strategy):
    """The paper's search: ``candidates`` replies at each turn, and the dialogue goes on from the
    best. Where the selector finds none good, they are drawn anew, ``redraws`` times at most."""

    candidates: int
    redraws: int = 0

    @property
    def options(self) -> int:
        return self.candidates

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        until_good(dialogues, self.redraws, lambda open_, n: self._attempt(open_, players, n))

    def _attempt(
        self, dialogues: Sequence[Dialogue], players: Players, attempt: int
    ) -> list[Dialogue]:
        """One draw for each dialogue; those for which the selector found none good."""
        drawn = self._drawn(dialogues, players, attempt)
        decisions = decide([(each.dialogue, each.ballot) for each in drawn], players)
        return [
            each.dialogue
            for each, (ballot, decision) in zip(drawn, decisions, strict=True)
            if not self._taken(each, ballot, decision, players, attempt)
        ]

    def _drawn(
        self, dialogues: Sequence[Dialogue], players: Players, attempt: int
    ) -> list["_Drawn"]:
        """What each dialogue has to choose from; one that has nothing ends."""
        agent = players.agent
        requests = [
            agent_request(dialogue, agent, players.config, players.seed, self.candidates, attempt)
            for dialogue in dialogues
        ]
        answers = draw(dialogues, requests, players)
        found = []
        for dialogue, request in zip(dialogues, requests, strict=True):
            if (completions := answers.get(dialogue.line)) is None:
                continue  # it has ended
            if replies := spoken(completions, states=agent.states):
                found.append(_Drawn(dialogue, request.request_id, completions, replies))
            else:
                cut = agent.states and cut_in_states(completions)
                dialogue.ended = "states_never_closed" if cut else "no_reply"
        return found

    def _taken(
        self, drawn: "_Drawn", ballot: Ballot, decision: Decision, players: Players, attempt: int
    ) -> bool:
        """Add the candidates to the dialogue's tree, and the best of them as its next turn; whether
        one was good."""
        dialogue, replies = drawn.dialogue, drawn.replies
        points = _points(ballot, decision)
        votes = {at: points[replies[at].utterance] for at in drawn.compared}
        best = max(votes, key=lambda at: votes[at])
        asked = len(ballot.candidates) > 1 and players.selector is not None
        taken = None
        for at, reply in enumerate(replies):
            kept = at == best and not decision.none_is_good
            node = grow(dialogue, dialogue.tip, "reply", "assistant", reply.text,
                        votes=votes.get(at) if asked else None, chosen=kept)  # fmt: skip
            taken = node if kept else taken
        if taken is None:
            return False
        dialogue.tip = taken
        candidates = tuple(
            Candidate(reply.text, votes.get(at, 0.0), at == best, reply.cut)
            for at, reply in enumerate(replies)
        )
        notes = turn_notes(drawn.completions, candidates, attempt, decision, self.candidates)
        dialogue.turns.append(
            TrajectoryTurn(
                "assistant", replies[best].text, candidates, drawn.completions[0].left_out, notes,
                cut=replies[best].cut,
            )
        )  # fmt: skip
        return True


@dataclass(frozen=True)
class _Drawn:
    """The replies to choose from at a dialogue's turn."""

    dialogue: Dialogue
    request_id: str
    completions: list[Completion]
    replies: list[Reply]

    @property
    def compared(self) -> list[int]:
        """The places of the replies that the selector compares."""
        return finished([reply.cut for reply in self.replies])

    @property
    def ballot(self) -> Ballot:
        utterances = dict.fromkeys(self.replies[at].utterance for at in self.compared)
        return reply_ballot(self.request_id, self.dialogue.utterances(), list(utterances))


def _points(ballot: Ballot, decision: Decision) -> dict[str, float]:
    """Votes by utterance, of a ballot on single replies."""
    return {
        course[0].content: votes
        for course, votes in zip(ballot.candidates, decision.votes, strict=True)
    }
