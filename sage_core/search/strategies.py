"""How a search spends its draws: the best reply at each turn, the best of whole dialogues, or a
tree of actions, wordings and looks ahead.

A strategy plays ``lines`` dialogues from each situation. At each turn of the agent it adds a reply
to all dialogues that go on, or ends them with the reason; in the end it picks one line of each
situation. Whatever it draws, compares and drops goes into the dialogue's search tree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.search import TreeConfig
from sage_core.engines.base import Completion, Request
from sage_core.engines.grammar import states_grammar, utterance_grammar
from sage_core.errors import ConfigError, ContextError
from sage_core.sac import is_well_formed, parse
from sage_core.schema import Candidate, Message, TrajectoryTurn
from sage_core.search.dialogue import (
    Dialogue,
    Speaker,
    agent_request,
    answered,
    cut_in_states,
    grow,
    spoken,
    user_turn,
)
from sage_core.search.selector import Ballot, Decision, Selector, reply_ballot
from sage_core.states import SINGLE


@dataclass(frozen=True)
class Players:
    """Who talks, under what settings, and who selects; without a selector the first of the
    candidates is taken."""

    agent: Speaker
    user: Speaker
    config: SelfPlayConfig
    seed: int
    selector: Selector | None = None


class Strategy(Protocol):
    """See the module."""

    @property
    def lines(self) -> int:
        """Dialogues that are played from each situation."""
        ...

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        """Add the agent's turn to each dialogue, or end it."""
        ...

    def pick(self, situations: Sequence[Sequence[Dialogue]], players: Players) -> list[Dialogue]:
        """One dialogue for each situation, of its lines."""
        ...


@dataclass(frozen=True)
class Greedy:
    """The paper's search: ``candidates`` replies at each turn, and the dialogue goes on from the
    best. Where the selector finds none good, they are drawn anew, ``redraws`` times at most."""

    candidates: int
    redraws: int = 0

    @property
    def lines(self) -> int:
        return 1

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        _until_good(dialogues, self.redraws, lambda open_, n: self._attempt(open_, players, n))

    def pick(self, situations: Sequence[Sequence[Dialogue]], players: Players) -> list[Dialogue]:
        return [lines[0] for lines in situations]

    def _attempt(
        self, dialogues: Sequence[Dialogue], players: Players, attempt: int
    ) -> list[Dialogue]:
        requests = [
            agent_request(
                dialogue, players.agent, players.config, players.seed, self.candidates, attempt
            )
            for dialogue in dialogues
        ]
        drawn = _draw(dialogues, requests, players)
        replies = {line: spoken(answer, states=players.agent.states)
                   for line, answer in drawn.items()}  # fmt: skip
        going = []
        for dialogue, request in zip(dialogues, requests, strict=True):
            if dialogue.line in replies:
                if replies[dialogue.line]:
                    going.append((dialogue, request))
                else:
                    cut = players.agent.states and cut_in_states(drawn[dialogue.line])
                    dialogue.ended = "states_never_closed" if cut else "no_reply"
        compared = {
            dialogue.line: finished([reply.cut for reply in replies[dialogue.line]])
            for dialogue, _ in going
        }
        decisions = _decide(
            [
                (
                    dialogue,
                    reply_ballot(
                        request.request_id,
                        dialogue.utterances(),
                        list(
                            dict.fromkeys(
                                replies[dialogue.line][at].utterance
                                for at in compared[dialogue.line]
                            )
                        ),
                    ),
                )
                for dialogue, request in going
            ],
            players,
        )
        refused = []
        for (dialogue, _), (ballot, decision) in zip(going, decisions, strict=True):
            spoke = replies[dialogue.line]
            points = _points(ballot, decision)
            votes = {at: points[spoke[at].utterance] for at in compared[dialogue.line]}
            best = max(votes, key=lambda at, votes=votes: votes[at])  # type: ignore[misc]
            asked = len(ballot.candidates) > 1 and players.selector is not None
            taken = None
            for at, reply in enumerate(spoke):
                kept = at == best and not decision.none_is_good
                node = grow(dialogue, dialogue.tip, "reply", "assistant", reply.text,
                            votes=votes.get(at) if asked else None, chosen=kept)  # fmt: skip
                taken = node if kept else taken
            if taken is None:
                refused.append(dialogue)
                continue
            dialogue.tip = taken
            found = tuple(
                Candidate(reply.text, votes.get(at, 0.0), at == best, reply.cut)
                for at, reply in enumerate(spoke)
            )
            notes = _notes(drawn[dialogue.line], found, attempt, decision, self.candidates)
            left_out = drawn[dialogue.line][0].left_out
            dialogue.turns.append(
                TrajectoryTurn(
                    "assistant", spoke[best].text, found, left_out, notes, cut=spoke[best].cut
                )
            )
        return refused


@dataclass(frozen=True)
class BestOfNDialogue:
    """``lines`` whole dialogues with one candidate a turn; the selector picks among them. Dialogues
    in which a reply was cut are not compared where there are others.

    The dialogues' first replies, which answer the same situation, are the candidates of the first
    turn of the one that is picked, with the votes of their dialogues.
    """

    lines: int

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
        decisions = iter(_decide(decided, players))
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


@dataclass(frozen=True)
class Tree:
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
    def lines(self) -> int:
        return 1

    def reply(self, dialogues: Sequence[Dialogue], players: Players) -> None:
        if not players.agent.states:
            raise ConfigError(
                f"search.strategy = 'tree' searches among states, which '{players.agent.name}' has "
                "none of; choose greedy or best_of_n_dialogue"
            )
        _until_good(dialogues, self.redraws, lambda open_, n: self._attempt(open_, players, n))

    def pick(self, situations: Sequence[Sequence[Dialogue]], players: Players) -> list[Dialogue]:
        return [lines[0] for lines in situations]

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
        decisions = _decide(
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
            notes = _notes(drawn[dialogue.line], found, attempt, decision, self.config.width)
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
        drawn = _draw(dialogues, requests, players)
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
            if isinstance(answer, ContextError):
                dialogue.ended = f"context_full: {answer}"
                continue
            dialogue.count(answer)
            wordings = spoken(answer, states=False)
            wordings = [wordings[at] for at in finished([each.cut for each in wordings])]
            if wordings:
                worded.append((dialogue, states, request, wordings, answer[0].left_out))
        decisions = _decide(
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


def finished(cut: Sequence[bool]) -> list[int]:
    """The places of the candidates that are compared: those that were not cut, or all where all
    were."""
    return [at for at, each in enumerate(cut) if not each] or list(range(len(cut)))


def _whole(branches: Sequence[_Branch]) -> list[_Branch]:
    return [branches[at] for at in finished([branch.cut for branch in branches])]


def _is_cut(dialogue: Dialogue) -> bool:
    return any(turn.cut for turn in dialogue.turns if turn.role == "assistant")


def _until_good(
    dialogues: Sequence[Dialogue],
    redraws: int,
    attempt: Callable[[Sequence[Dialogue], int], list[Dialogue]],
) -> None:
    """Try until the selector finds a candidate good; ``attempt`` gives those it found none for."""
    open_ = list(dialogues)
    for number in range(redraws + 1):
        open_ = attempt(open_, number) if open_ else []
    for dialogue in open_:
        dialogue.ended = f"none_good: {redraws} redraws"


def _draw(
    dialogues: Sequence[Dialogue], requests: Sequence[Request], players: Players
) -> dict[str, list[Completion]]:
    """The completions by line; a dialogue that the context has no room for ends."""
    drawn = {}
    answers = answered(players.agent.engine.generate, requests)
    for dialogue, answer in zip(dialogues, answers, strict=True):
        if isinstance(answer, ContextError):
            dialogue.ended = f"context_full: {answer}"
        else:
            dialogue.count(answer)
            drawn[dialogue.line] = answer
    return drawn


def _decide(
    choices: Sequence[tuple[Dialogue, Ballot]], players: Players, *, refusing: bool = True
) -> list[tuple[Ballot, Decision]]:
    """The decision on each ballot; where there is no choice, nobody is asked. What the selector was
    shown is kept with the dialogue."""
    selector = players.selector
    alone = 1 if refusing and selector is not None and selector.may_refuse else 2
    asked = [
        place for place, (_, ballot) in enumerate(choices)
        if selector is not None and len(ballot.candidates) >= alone
    ]  # fmt: skip
    decided: dict[int, Decision] = {}
    if selector is not None and asked:
        answers = selector.decide([choices[place][1] for place in asked])
        decided = dict(zip(asked, answers, strict=True))
    decisions = []
    for place, (dialogue, ballot) in enumerate(choices):
        decision = decided.get(place, Decision((0.0,) * len(ballot.candidates)))
        dialogue.showings += decision.showings
        decisions.append((ballot, decision if refusing else replace(decision, none_is_good=False)))
    return decisions


def _points(ballot: Ballot, decision: Decision) -> dict[str, float]:
    """Votes by utterance, of a ballot on single replies."""
    return {
        course[0].content: votes
        for course, votes in zip(ballot.candidates, decision.votes, strict=True)
    }


def _notes(
    drawn: Sequence[Completion],
    found: Sequence[Candidate],
    attempt: int,
    decision: Decision,
    asked: int,
) -> tuple[str, ...]:
    """What a reader of the turn should know of how it came about."""
    notes = [f"redrawn: {attempt}"] if attempt else []
    if asked > 1 and len(drawn) > 1 and len(found) == 1:
        notes.append("no_choice: all candidates alike or empty")
    return (*notes, *decision.notes)


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
