"""A conversation with a model, whoever shows it: history, steering, the states of each turn.

The model sees what it was trained on (:mod:`sage_core.conversation`): its profile, the user's
utterances, its own replies with their states. What the user types is never read for states.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sage_core.config.conversation import SelfPlayConfig
from sage_core.conversation import Said, view
from sage_core.engines.base import Request
from sage_core.engines.grammar import sac_grammar
from sage_core.engines.steering import Steering
from sage_core.errors import ConfigError, DataError, EngineError
from sage_core.sac import StateAction, is_well_formed, parse
from sage_core.search.dialogue import Speaker


@dataclass(frozen=True)
class Turn:
    """One turn.

    Attributes:
        role: ``user`` or ``assistant``.
        utterance: what was said.
        content: what later prompts hold of it: with its states, if it has any.
        user: the user's state as the model sees it; None in turns without states.
        agent: the model's own action; None in turns without states.
        steering: what was asked of the states.
        left_out: the oldest turns that the context had no room for.
        cut_off: the reply reached ``max_new_tokens``.
    """

    role: str
    utterance: str
    content: str
    user: StateAction | None = None
    agent: StateAction | None = None
    steering: Steering = field(default_factory=Steering)
    left_out: int = 0
    cut_off: bool = False

    def as_dict(self) -> dict[str, Any]:
        """As JSON values; what steered it in the command line's forms."""
        return {**asdict(self), "steering": self.steering.written()}


class Chat:
    """A conversation with ``agent``; ``config`` says how it is prompted and how it speaks.

    Raises:
        ConfigError: ``steering`` is asked of a model that writes no states.
    """

    def __init__(
        self,
        agent: Speaker,
        config: SelfPlayConfig,
        seed: int = 0,
        steering: Steering = Steering(),  # noqa: B008 - frozen
    ) -> None:
        self.agent = agent
        self.turns: list[Turn] = []
        self._config = config
        self._seed = seed
        self._steering = Steering()
        self._asked = 0  # never set back, so that what is asked again is drawn anew
        self.steering = steering

    @property
    def steering(self) -> Steering:
        """What is asked of the states from the next reply on."""
        return self._steering

    @steering.setter
    def steering(self, steering: Steering) -> None:
        check(self.agent.name, steering, states=self.agent.states)
        self._steering = steering

    def reply(self, text: str) -> Turn:
        """The model's answer to ``text``. After an error the conversation is as before.

        Where the context is full, the oldest turns are left out of the prompt in pairs; the
        profile and ``text`` stay.

        Raises:
            DataError: ``text`` is empty.
            ConfigError: the model's tokenizer cannot write a steered value.
            EngineError: ``text`` alone is longer than the context, or the reply says nothing.
        """
        text = text.encode("utf-8", "replace").decode().strip()  # half characters have no tokens
        if not text:
            raise DataError("nothing was said; type a message")
        said, steering = Turn("user", text, text), self._steering
        self._asked += 1
        [[completion]] = self.agent.engine.generate([self._request(said, steering)])
        content = completion.text.strip()
        chain = parse(content) if self.agent.states else None
        utterance = chain.utterance.strip() if chain else content
        broken = chain and content.startswith("{") and not is_well_formed(content)
        if broken or not utterance:
            raise EngineError(
                f"the reply of '{self.agent.name}' ended before it said anything; say it again, or "
                "raise sampling.max_new_tokens if that happens often"
            )
        turn = Turn(
            "assistant",
            utterance,
            content,
            user=chain.user if chain else None,
            agent=chain.agent if chain else None,
            steering=steering,
            left_out=completion.left_out,
            cut_off=completion.finish_reason == "length",
        )
        self.turns += [said, turn]
        return turn

    def reset(self) -> None:
        """Forget the conversation; the steering stays."""
        self.turns.clear()

    def as_jsonl(self) -> str:
        """The conversation as JSON lines, a turn each (:meth:`Turn.as_dict`)."""
        lines = [json.dumps(turn.as_dict(), ensure_ascii=False) for turn in self.turns]
        return "".join(f"{line}\n" for line in lines)

    def save(self, path: Path) -> None:
        """Write :meth:`as_jsonl` to a new file.

        Raises:
            DataError: the file exists, or cannot be written.
        """
        try:
            with path.open("x", encoding="utf-8") as stream:
                stream.write(self.as_jsonl())
        except FileExistsError:
            raise DataError(f"'{path}' exists already; give another name") from None
        except (OSError, ValueError) as error:
            raise DataError(f"'{path}' cannot be written: {error}; give another name") from None

    def _request(self, asked: Turn, steering: Steering) -> Request:
        said = [
            Said("assistant" if turn.role == "assistant" else "user", turn.utterance, turn.content)
            for turn in (*self.turns, asked)
        ]
        seen = view(said, self.agent.profile, states=self.agent.states)
        constrained = self.agent.states and self._config.state_grammar
        return Request(
            request_id=f"{self.agent.name}/chat/{self._asked}",
            messages=seen.messages,
            sampling=self._config.sampling,
            seed=self._seed,
            constraint=sac_grammar(steering.forces) if constrained else None,
            opens_with_states=self.agent.states,
            steering=steering or None,
            pinned=seen.pinned - 1,  # a long chat may leave its first turn behind
        )


def check(name: str, steering: Steering, *, states: bool) -> None:
    """
    Raises:
        ConfigError: ``steering`` asks something of a model that writes no states.
    """
    if steering and not states:
        raise ConfigError(
            f"'{name}' writes no states, so there is nothing to steer; choose m1, m2, ... or dpo"
        )
