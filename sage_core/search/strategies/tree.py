"""A tree of actions, wordings and looks ahead."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

from sage_core.config.search import SearchConfig, TreeConfig
from sage_core.engines.answered import answered
from sage_core.engines.base import Completion, Request
from sage_core.engines.grammar import states_grammar, utterance_grammar
from sage_core.errors import ConfigError, ItemError
from sage_core.sac import is_well_formed, parse
from sage_core.schema import Candidate, Message, TrajectoryTurn
from sage_core.search.dialogue import Dialogue, agent_request, ending, grow, spoken, user_turn
from sage_core.search.selectors.selector import Ballot, reply_ballot
from sage_core.search.strategies.greedy import Greedy
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
from sage_core.states import SINGLE


def tree(config: SearchConfig) -> Strategy:
    """The strategy of these settings."""
    return Tree(config.candidates, config.tree, redraws_of(config))


@dataclass(frozen=True)
class Tree(Strategy):
    """Distinct actions first, wordings under them, and a look ahead (see
    :class:`sage_core.config.search.TreeConfig`).

    At each turn ``candidates`` states are drawn without words, and the first ``width`` whose action
    (its fields of one value) differs are kept; under each, ``wordings`` replies go on from them, of
    which the selector keeps one. From these branches ``depth`` further exchanges are played with
    one candidate a turn, and the selector picks the course that went best.
    """

    candidates: int
    config: TreeConfig
    redraws: int = 0

    @property
    def options(self) -> int:
        return max(self.config.width, self.config.wordings)

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        if not players.agent.states:
            raise ConfigError(
                f"search.strategy = 'tree' searches among states, which '{players.agent.name}' has "
                "none of; choose greedy or best_of_n_dialogue"
            )
        until_good(dialogues, self.redraws, lambda open_, n: self._attempt(open_, players, n))

    def _attempt(
        self, dialogues: Sequence[Dialogue], players: Players, attempt: int
    ) -> list[Dialogue]:
        actions, drawn = self._actions(dialogues, players, attempt)
        branches = self._wordings(actions, players, attempt)
        self._look_ahead([branch for each in branches for branch in each], players, attempt)
        going = []
        for (dialogue, _), each in zip(actions, branches, strict=True):
            if each:
                going.append((dialogue, each))
            elif not dialogue.ended:
                dialogue.ended = "no_reply"
        decisions = decide(
            [
                (
                    dialogue,
                    Ballot(
                        f"{players.agent.name}/{dialogue.line}/{len(dialogue.turns)}/branches"
                        + (f".{attempt}" if attempt else ""),
                        dialogue.utterances(),
                        tuple(dict.fromkeys(branch.course for branch in _whole(each))),
                    ),
                )
                for dialogue, each in going
            ],
            players,
        )
        refused = []
        for (dialogue, each), (ballot, decision) in zip(going, decisions, strict=True):
            points = dict(zip(ballot.candidates, decision.votes, strict=True))
            compared = len(ballot.candidates) > 1 and players.selector is not None
            best = max(_whole(each), key=lambda branch, points=points: points[branch.course])  # type: ignore[misc]
            for branch in each:
                kept = branch is best and not decision.none_is_good
                votes = points.get(branch.course) if compared else None
                tip = branch.record(dialogue, votes, kept)
                if kept:
                    kept_tip = tip
            if decision.none_is_good:
                refused.append(dialogue)
                continue
            dialogue.tip = kept_tip
            found = tuple(
                Candidate(branch.text, points.get(branch.course, 0.0), branch is best, branch.cut)
                for branch in each
            )
            notes = turn_notes(drawn[dialogue.line], found, attempt, decision, self.config.width)
            notes += best.notes
            dialogue.turns.append(
                TrajectoryTurn("assistant", best.text, found, best.left_out, notes, cut=best.cut)
            )
        return refused

    def _actions(
        self, dialogues: Sequence[Dialogue], players: Players, attempt: int
    ) -> tuple[list[tuple[Dialogue, list[str]]], dict[str, list[Completion]]]:
        """The distinct actions of each dialogue that has any, as states without words."""
        requests = []
        for dialogue in dialogues:
            whole = agent_request(
                dialogue, players.agent, players.config, players.seed, self.candidates, attempt
            )
            requests.append(
                replace(whole, request_id=f"{whole.request_id}-states", constraint=states_grammar())
            )
        drawn = draw(dialogues, requests, players)
        found = []
        for dialogue in dialogues:
            if dialogue.line not in drawn:
                continue
            distinct: dict[tuple[tuple[str, ...], ...], str] = {}
            for completion in drawn[dialogue.line]:
                states = completion.text.strip()
                if is_well_formed(f"{states} ."):
                    action = parse(states).agent
                    values = (field.of(action) for field in SINGLE)
                    key = tuple(tuple(map(str.casefold, each)) for each in values)
                    distinct.setdefault(key, states)
            if distinct:
                found.append((dialogue, list(islice(distinct.values(), self.config.width))))
            else:
                dialogue.ended = "states_never_closed"
        return found, drawn

    def _wordings(
        self, actions: Sequence[tuple[Dialogue, list[str]]], players: Players, attempt: int
    ) -> list[list["_Branch"]]:
        """A branch for each action that words were found for: the selector's choice of them."""
        asked: list[tuple[Dialogue, str, Request]] = []
        for dialogue, each in actions:
            whole = agent_request(
                dialogue,
                players.agent,
                players.config,
                players.seed,
                self.config.wordings,
                attempt,
            )
            for number, states in enumerate(each):
                request = replace(
                    whole,
                    request_id=f"{whole.request_id}-words-{number}",
                    constraint=utterance_grammar(),
                    opens_with_states=False,
                    prefix=states,
                )
                asked.append((dialogue, states, request))
        requests = [request for _, _, request in asked]
        answers = answered(players.agent.engine.generate, requests)
        worded = []
        for (dialogue, states, request), answer in zip(asked, answers, strict=True):
            if isinstance(answer, ItemError):
                dialogue.ended = ending(answer)
                continue
            dialogue.count(answer)
            wordings = spoken(answer, states=False)
            wordings = [wordings[at] for at in finished([each.cut for each in wordings])]
            if wordings:
                worded.append((dialogue, states, request, wordings, answer[0].left_out))
        decisions = decide(
            [
                (
                    dialogue,
                    reply_ballot(
                        request.request_id,
                        dialogue.utterances(),
                        [each.utterance for each in wordings],
                    ),
                )
                for dialogue, _, request, wordings, _ in worded
            ],
            players,
            refusing=False,  # whether any is good is asked of the branches
        )
        branches: dict[str, list[_Branch]] = {}
        for (dialogue, states, _, wordings, left_out), (_, decision) in zip(
            worded, decisions, strict=True
        ):
            best = max(range(len(wordings)), key=lambda at, d=decision: d.votes[at])  # type: ignore[misc]
            votes: list[float | None] = list(decision.votes)
            if len(wordings) == 1 or players.selector is None:
                votes = [None] * len(wordings)
            number = len(branches.setdefault(dialogue.line, []))
            text, cut = f"{states} {wordings[best].utterance}", wordings[best].cut
            played = replace(
                dialogue,
                line=f"{dialogue.line}>{len(dialogue.turns)}.{attempt}.{number}",
                turns=[*dialogue.turns, TrajectoryTurn("assistant", text, (), cut=cut)],
                nodes=[],
                showings=[],
                generated_tokens=0,
            )
            branches[dialogue.line].append(
                _Branch(
                    states,
                    text,
                    cut,
                    [each.utterance for each in wordings],
                    votes,
                    best,
                    played,
                    len(dialogue.turns),
                    left_out,
                    decision.notes,
                )
            )
        return [
            [] if dialogue.ended else branches.get(dialogue.line, []) for dialogue, _ in actions
        ]

    def _look_ahead(self, branches: Sequence["_Branch"], players: Players, attempt: int) -> None:
        """Play the next exchanges from each branch, as far as the dialogue may go at all."""
        alone = replace(players, selector=None)
        for step in range(2 * self.config.depth):
            going = [
                branch.played
                for branch in branches
                if not branch.played.ended and len(branch.played.turns) < players.config.max_turns
            ]
            if step % 2 == 0:
                user_turn(going, players.user, players.config, players.seed)
            else:
                Greedy(1).reply(going, alone)


@dataclass(frozen=True)
class _Branch:
    """An action with its wordings, and what came of the best of them: ``played`` goes on from the
    dialogue, whose next turn is number ``start``."""

    states: str
    text: str
    cut: bool
    utterances: list[str]
    votes: list[float | None]
    best: int
    played: Dialogue
    start: int
    left_out: int
    notes: tuple[str, ...]

    @property
    def course(self) -> tuple[Message, ...]:
        """The reply and what was said after it."""
        return self.played.utterances()[self.start :]

    def record(self, dialogue: Dialogue, votes: float | None, kept: bool) -> int:
        """Add this branch to the dialogue's search tree and return its reply's node number."""
        dialogue.generated_tokens += self.played.generated_tokens
        action = grow(dialogue, dialogue.tip, "action", "assistant", self.states,
                      votes=votes, chosen=kept)  # fmt: skip
        reply = action
        for at, utterance in enumerate(self.utterances):
            node = grow(dialogue, action, "reply", "assistant", f"{self.states} {utterance}",
                        votes=self.votes[at], chosen=kept and at == self.best)  # fmt: skip
            reply = node if at == self.best else reply
        ahead = reply
        for node_ahead in self.played.nodes:
            ahead = grow(dialogue, ahead, "look_ahead", node_ahead.role, node_ahead.content)
        return reply


def _whole(branches: Sequence[_Branch]) -> list[_Branch]:
    return [branches[at] for at in finished([branch.cut for branch in branches])]
