"""What a request asks of SAGE's plug-in in a server, and how it travels there."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from sage_core.engines.steering import Steering
from sage_core.errors import ConfigError

_NOTHING = Steering()


@dataclass(frozen=True)
class Asked:
    """What one request asks of the plug-in.

    Attributes:
        penalty: a repetition penalty, from 1, that starts behind the states.
        state_groups: groups of states that the reply still opens with.
        steering: what is asked of the states.
        grammar: the reply is drawn under a grammar that holds the forces.
        prefix: text that the reply already starts with.
    """

    penalty: float = 1.0
    state_groups: int = 0
    steering: Steering = _NOTHING
    grammar: bool = False
    prefix: str = ""

    def __bool__(self) -> bool:
        return self.penalty != 1 or bool(self.steering)

    def written(self) -> dict[str, str | float]:
        """As the flat values that ``vllm_xargs`` takes."""
        values: dict[str, str | float] = {}
        if self.penalty != 1:
            values |= {"sage_penalty": self.penalty, "sage_state_groups": self.state_groups}
        if self.steering:
            values["sage_steering"] = json.dumps(self.steering.written(), ensure_ascii=False)
            values["sage_grammar"] = int(self.grammar)
            values["sage_prefix"] = self.prefix
        return values

    @classmethod
    def read(cls, values: Mapping[str, Any] | None) -> Self:
        """The inverse of :meth:`written`; other names are not looked at.

        Raises:
            ConfigError: a value is wrong.
        """
        values = values or {}
        penalty = values.get("sage_penalty", 1.0)
        if not isinstance(penalty, int | float) or not 1 <= penalty < float("inf"):
            raise ConfigError(f"sage_penalty = {penalty!r} is not a number from 1")
        try:
            steering = Steering.read(**json.loads(values.get("sage_steering", "{}")))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                "sage_steering is not a JSON object of the lists 'boost', 'force' and 'ban': "
                f"{error}"
            ) from None
        return cls(
            float(penalty),
            int(values.get("sage_state_groups", 0)),
            steering,
            bool(values.get("sage_grammar", 0)),
            str(values.get("sage_prefix", "")),
        )
