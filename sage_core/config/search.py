"""Self-play search and its selector."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.engine import EngineConfig, TransformersConfig, those_that
from sage_core.config.section import NonNegative, Positive, Section
from sage_core.search.selectors import ASKS_NO_ENGINE, NEVER_REFUSES, SELECTORS
from sage_core.search.strategies import NEEDS_STATES, STRATEGIES

_LLM = "llm"


class SelectorConfig(Section):
    """What picks the best candidate of a turn (section 4.4): an LLM, unless relevance, a function,
    a reward model, chance or another name is given."""

    name: Annotated[str, SELECTORS] = Field(
        _LLM,
        description="What picks, unless `relevance`, `function`, `reward_model` or `random` is "
        "set: each takes its place.",
    )
    engine: EngineConfig = TransformersConfig()
    criteria: Literal["humour"] | tuple[str, ...] = Field(
        (
            "consistency",
            "humour",
            "sympathy",
            "informativeness",
            "appropriateness",
            "respect",
        ),
        description="What a good reply shows; 'humour' asks for the funniest one, whatever else.",
    )
    shuffles: Positive = Field(
        1, description="Orders in which the candidates are shown; the mean of their Borda counts."
    )
    none_is_good: bool = Field(
        False, description="Let the selector say that none is good; then candidates are drawn anew."
    )
    redraws: NonNegative = Field(
        5, description="Times that candidates are drawn anew before the dialogue ends there."
    )
    function: str = Field(
        "",
        pattern=r"^([A-Za-z_][\w.]*:[A-Za-z_][\w.]*)?$",
        description="A Python function in place of the LLM, as package.module:name: (utterance) or "
        "(utterance, history) -> float, higher is better; empty = none.",
    )
    reward_model: Path | None = Field(
        None,
        description="A folder of a transformers sequence-classification model with one output, in "
        "place of the LLM; empty = none.",
    )
    relevance: bool = Field(
        False,
        description="How much likelier the reply is after this dialogue than after none, under m0, "
        "in place of the LLM's ranking; `engine` does the scoring.",
    )
    length_penalty: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Of relevance, which is divided by the reply's tokens to this power: 1 = nats "
        "per token, 0 = of the whole reply. Nearer to 1 favours short replies.",
    )
    random: bool = Field(False, description="Chance in place of the LLM: a baseline.")

    @model_validator(mode="after")
    def _one_selector(self) -> Self:
        given = self._given()
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; keep one of them")
        if given and self.name not in (_LLM, *given):
            raise ValueError(f"name = '{self.name}' and {given[0]} are both set; keep one of them")
        if not given and self.name in ("function", "reward_model"):
            raise ValueError(f"name = '{self.name}' needs the setting {self.name}")
        if self.none_is_good and SELECTORS.has(self.chosen, NEVER_REFUSES):
            raise ValueError(f"{self.chosen} cannot say that none is good; set none_is_good=false")
        if self.chosen == "relevance" and not self.engine.traits.scores_replies:
            raise ValueError(
                "relevance needs an engine that scores whole replies: "
                f"{those_that('scores_replies')}"
            )
        return self

    def _given(self) -> list[str]:
        """The selectors that are named by a setting of their own."""
        settings = {"relevance": self.relevance, "function": self.function,
                    "reward_model": self.reward_model, "random": self.random}  # fmt: skip
        return [name for name, value in settings.items() if value]

    @property
    def chosen(self) -> str:
        """The name of the selector, whichever setting names it."""
        return (*self._given(), self.name)[0]

    @property
    def asks_engine(self) -> bool:
        """Whether ``engine`` is asked, to rank or to score; one's own may ask it."""
        return not SELECTORS.has(self.chosen, ASKS_NO_ENGINE)


class TreeConfig(Section):
    """Tree search: distinct actions first, wordings under them, and a look ahead."""

    width: Positive = Field(4, description="Distinct actions kept of a turn's candidates.")
    wordings: Positive = Field(2, description="Replies drawn under each action.")
    depth: NonNegative = Field(
        1, description="Exchanges played on from each branch to value it; 0 = the reply alone."
    )


class SearchConfig(Section):
    """Self-play search: several candidates per agent turn, the best one kept."""

    strategy: Annotated[str, STRATEGIES] = Field(
        "greedy",
        description="'greedy': the best of the candidates at each turn, as in the paper; "
        "'best_of_n_dialogue': the best of as many whole dialogues; 'tree': see search.tree.",
    )
    candidates: Positive = 16
    tree: TreeConfig = TreeConfig()
    situations: NonNegative = Field(0, description="Situations per round; 0 = all of the half.")
    grammar_probe: NonNegative = Field(
        8, description="Situations on which malformed states are counted without the grammar."
    )
    selfplay: SelfPlayConfig = SelfPlayConfig()
    selector: SelectorConfig = SelectorConfig()

    @model_validator(mode="after")
    def _states_need_the_grammar(self) -> Self:
        if STRATEGIES.has(self.strategy, NEEDS_STATES) and not self.selfplay.state_grammar:
            raise ValueError(
                f"the strategy '{self.strategy}' draws states and words apart, which needs the "
                "grammar; set selfplay.state_grammar=true, or choose greedy or best_of_n_dialogue"
            )
        return self
