"""What each stage of a run asks and trains on, found by running its real code on placeholders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sage_core import labels
from sage_core.config.answers import AnswersSection
from sage_core.config.conversation import SelfPlayConfig
from sage_core.config.engine import EngineConfig
from sage_core.config.evaluation import JudgeConfig
from sage_core.config.pipeline import PipelineConfig
from sage_core.config.search import SelectorConfig
from sage_core.corpus.records import DIALOGUES
from sage_core.errors import ConfigError
from sage_core.evaluation.embedding import TF_IDF
from sage_core.evaluation.human import read_human
from sage_core.evaluation.judge import question
from sage_core.evaluation.prompts import PROMPTS
from sage_core.evaluation.tournament import judged_pairs
from sage_core.planning.context import Placeholders, Run
from sage_core.planning.costs import Costs, StagePlan, Use
from sage_core.planning.counting import CountingEngine, Text
from sage_core.sac import utterance_of
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    PreferencePair,
    Situation,
    Split,
    TrainingDialogue,
    Trajectory,
)
from sage_core.search.situations import situations
from sage_core.steps import configured
from sage_core.steps.base import Model, writes_states
from sage_core.steps.judged import Judge
from sage_core.steps.measurements import Measurements
from sage_core.steps.names import PREFERENCES, SAC, SITUATIONS, TRAINING, TRAJECTORIES
from sage_core.steps.steering import SteeringEvidence
from sage_core.storage import ArtifactRef

if TYPE_CHECKING:
    from sage_core.evaluation.measuring import Embed

_KEPT_TWICE = 2  # what a search writes is kept in its trajectories and in its tree


def plan(config: PipelineConfig) -> list[StagePlan]:
    """The estimate of every stage that costs anything, in the order of the run; with
    ``refine.stop = 'saturation'`` of the most rounds there may be.

    Raises:
        ConfigError: the model's size, or the number of dialogues or situations, is not known.
    """
    with TemporaryDirectory() as folder:
        return _Planner(config, Path(folder)).stages()


def planned_dialogues(config: PipelineConfig) -> int:
    """How many dialogues are trained on; 0 = not known before the corpora are read."""
    most = [corpus.max_dialogues for corpus in (config.corpus, *config.mixture.corpora)]
    return config.plan.dialogues or (sum(most) if all(most) else 0)


class _Planner:
    def __init__(self, config: PipelineConfig, folder: Path) -> None:
        self.config, self.settings = config, config.plan
        self.text = Text(config.plan)
        self.costs = Costs(config)
        self.store = Placeholders(folder, self.text, config.model.max_context)
        self.m0 = self._model("m0")
        self.dialogues = planned_dialogues(config)
        if not self.dialogues:
            raise ConfigError(
                "how many dialogues the corpora keep is not known before they are read; set "
                "plan.dialogues, or max_dialogues of each corpus"
            )
        self.openings = self._situations("search", config.search.situations)
        self.held_out = self._situations("evaluation", config.evaluation.situations)
        refined = [f"m{number}" for number in range(2, config.refine.most_rounds + 2)]
        self.iterations = ["m1", *refined]
        self.models = ["m0", "raw", *self.iterations, "dpo"]
        self.opening = self.store.table(SITUATIONS, [self._situation()])

    def stages(self) -> list[StagePlan]:
        config = self.config
        annotated, annotation_plan = self.annotation()
        trained = {}
        for name in ("raw", "m1"):
            rows = self.training_text(annotated, states=writes_states(name))
            trained[name] = _mean([self.text.conversation(row.messages) for row in rows])
        count = self._trained_dialogues() * len(rows)
        found = [self.costs.base(), annotation_plan]
        for name, tokens in trained.items():
            found.append(self.costs.training("sft", name, count, "dialogues", tokens,
                                             config.sft.epochs, config.sft))  # fmt: skip
        found.append(self.probe())
        rollouts = {name: self.rollout(name) for name in self.models}
        searched, search = self.search()
        step = configured.selected_dialogues(config, searched)
        selected = self.store.rows(self.store.run(step).made, TRAINING, TrainingDialogue)
        dialogue = sum(self.text.conversation(each.messages) for each in selected)
        for last, name in zip(self.iterations, self.iterations[1:], strict=False):
            found.append(replace(search, label=last))
            settings = config.refine.sft
            found.append(self.costs.training("sft", name, self.openings, "trajectories", dialogue,
                                             settings.epochs, settings))  # fmt: skip
        if config.dpo.pairs_from == "last":
            found.append(replace(search, label=self.iterations[-1]))
        found.append(self.preference(searched))
        found += [stage for _, stage in rollouts.values()]
        played = {name: trajectory for name, (trajectory, _) in rollouts.items()}
        measured = {name: self.measurements(name, played[name]) for name in self.models}
        found += [stage for _, stage in measured.values()]
        found += [self.collapse(name, played[name], measured[name][0]) for name in self.iterations]
        found += self.judging(played)
        if config.steering_report.enabled:
            found.append(self.steering())
        return found

    # --- what each stage asks ---------------------------------------------------------------------

    def annotation(self) -> tuple[ArtifactRef, StagePlan]:
        settings = self.config.annotation
        dialogue = self._dialogue()
        dialogues = self.store.table(DIALOGUES, [dialogue])
        step = configured.annotate_shard(self.config, dialogues, self.m0, 0)
        run = self.store.run(step, self.settings.utterance_tokens)
        annotated = run.made
        if settings.method == "score":
            annotated = self.store.table(SAC, [self._annotated(dialogue)])
        annotator = self._use("annotator", settings.engine, run.engines[0], self.dialogues)
        uses = [_reasoning(annotator, settings)]
        if settings.compares_situations:
            scores = configured.situation_scores(self.config, self.opening, self.m0)
            (compared,) = self.store.run(scores, 0).engines
            number = self._situations("search", labels.REFERENCE)
            uses.append(self._use("annotator, situations", settings.engine, compared, number))
        return annotated, self.costs.generation(
            "annotate-shard", "", uses, f"{self.dialogues:,} dialogues of "
            f"{len(dialogue.messages)} turns", self.config.model.batch_size,
        )  # fmt: skip

    def training_text(self, annotated: ArtifactRef, *, states: bool) -> list[TrainingDialogue]:
        """Of one dialogue; instruction data is not read for a plan."""
        step = configured.chain_text(self.config, annotated, "", states=states)
        step = replace(step, settings=step.settings.model_copy(update={"instructions": None}))
        return self.store.rows(self.store.run(step).made, TRAINING, TrainingDialogue)

    def probe(self) -> StagePlan:
        settings = self.config.search
        limit = min(settings.grammar_probe, self._situations("search", settings.grammar_probe))
        step = configured.grammar_probe(self.config, self._model("m1"), self.opening)
        step = replace(step, settings=settings.model_copy(update={"grammar_probe": 1}))
        (agent,) = self.store.run(step, self._reply_tokens("m1")).engines
        use = self._use("agent", settings.selfplay.agent_engine, agent, limit,
                        max_new_tokens=settings.selfplay.sampling.budget(states=True))  # fmt: skip
        return self.costs.generation("grammar-probe", "", [use], f"{limit} situations", limit)

    def rollout(self, name: str) -> tuple[ArtifactRef, StagePlan]:
        settings = self.config.evaluation.selfplay
        step = configured.rollout_shard(
            self.config, self._model(name), self._model("m1"), self.opening, 0
        )
        run = self.store.run(step, self._reply_tokens(name), self.settings.user_tokens)
        uses = self._sides(settings, run.engines, self.held_out, 1)
        return run.made, self.costs.generation(
            "rollout-shard", name, uses, f"{self.held_out:,} situations of {settings.max_turns} "
            "turns", settings.shard_size,
        )  # fmt: skip

    def search(self) -> tuple[ArtifactRef, StagePlan]:
        settings = self.config.search
        m1 = self._model("m1")
        step = configured.search_shard(self.config, m1, m1, self.opening, 0, "")
        if not settings.selector.asks_engine:  # it need not be loaded for a plan
            chance = {"selector": SelectorConfig(random=True)}
            step = replace(step, settings=settings.model_copy(update=chance))
        run = self.store.run(step, self._reply_tokens("m1"), self.settings.user_tokens, 1)
        uses = self._sides(settings.selfplay, run.engines, self.openings, settings.candidates)
        for selector in run.engines[2:]:  # none, unless the selector has asked for one
            engine = settings.selector.engine
            use = self._use("selector", engine, selector, self.openings)
            if not engine.traits.runs_here:  # a server answers a choice with a token
                use = replace(use, written=use.requests)
            uses.append(use)
        return run.made, self.costs.generation(
            "search-shard", "", uses, f"{self.openings:,} situations of "
            f"{settings.selfplay.max_turns} turns and {settings.candidates} candidates",
            settings.selfplay.shard_size, kept=_KEPT_TWICE,
        )  # fmt: skip

    def preference(self, searched: ArtifactRef) -> StagePlan:
        config = self.config.dpo
        step = replace(configured.preferences(self.config, [searched]), max_pairs=0)
        pairs = self.store.rows(self.store.run(step).made, PREFERENCES, PreferencePair)
        rounds = 1 if config.pairs_from == "last" else len(self.iterations) - 1
        number = len(pairs) * self.openings * rounds
        if config.max_pairs:
            number = min(number, config.max_pairs)
        tokens = _mean(
            [
                self.text.conversation((*pair.prompt, Message("assistant", reply)))
                for pair in pairs
                for reply in (pair.chosen, pair.rejected)
            ]
        )
        return self.costs.training("dpo", "", 2 * number, "chosen and rejected replies", tokens,
                             config.epochs, config)  # fmt: skip

    def collapse(self, name: str, played: ArtifactRef, measured: ArtifactRef) -> StagePlan:
        selfplay, gates = self.config.evaluation.selfplay, self.config.refine.gates
        replies = self._replies(played)
        number = min(gates.kl_replies, replies * self.held_out)
        step = configured.collapse_metrics(self.config, self._model(name), played, measured)
        step = replace(step, settings=gates.model_copy(update={"kl_replies": replies}))
        run = self.store.run(step, self._reply_tokens(name), 0)
        times = number / max(1, replies)
        uses = [
            self._use(role, selfplay.agent_engine, engine, times)
            for role, engine in zip(("agent", "m0"), run.engines, strict=True)
        ]
        return self.costs.generation("collapse-metrics", name, uses, f"{number} replies", number)

    def measurements(self, name: str, played: ArtifactRef) -> tuple[ArtifactRef, StagePlan]:
        settings = self.config.evaluation.quality
        number = min(settings.situations or self.held_out, self.held_out)
        matched = min(settings.alternatives or self.held_out, number - 1) + 1
        (first,) = self.store.rows(played, TRAJECTORIES, Trajectory)
        rows = [
            replace(
                first,
                situation_id=f"plan{n}",
                situation=f"{first.situation} {n}",
                turns=tuple(  # other words in each, since equal replies are scored once
                    replace(turn, content=f"{n} {utterance_of(turn.content)}")
                    for turn in first.turns
                ),
            )
            for n in range(matched)
        ]
        replies = self._replies(played)
        scored = min(settings.likelihood_replies, replies * self.held_out)
        engine = self.config.evaluation.selfplay.agent_engine

        def measure(some: list[Trajectory], most: int) -> Run:
            rollouts = self.store.table(TRAJECTORIES, some)
            step = configured.measurements(self.config, self._model(name), rollouts, TF_IDF)
            asked = settings.model_copy(update={"likelihood_replies": most})
            return self.store.run(_Measurements(**{**vars(step), "settings": asked}), 0)

        likelihood, matching = measure(rows[:1], replies), measure(rows, 0)
        uses = [
            self._use("m0, likelihood", engine, likelihood.engines[0], scored / max(1, replies)),
            self._use("m0, matching", engine, matching.engines[0], number / matched),
        ]
        what = f"{number} situations with {matched - 1} others, {scored} replies"
        return likelihood.made, self.costs.generation("measurements", name, uses, what, number)

    def judging(self, played: dict[str, ArtifactRef]) -> list[StagePlan]:
        found = []
        situations = self.config.evaluation.judged_of(self.held_out)
        for settings in self.config.evaluation.judges:
            for pair in judged_pairs(self.config.evaluation, self.models, situations):
                judge = self._judge(settings)
                step = configured.judge_pair(self.config, judge, pair, played, self.m0)
                (engine,) = self.store.run(step, 1).engines
                use = self._use(f"judge {settings.name}", settings.engine, engine, situations)
                use = _reasoning(use, settings)
                found.append(
                    self.costs.generation(
                        "judge-pair", f"{settings.name} {pair[0]}-{pair[1]}", [use],
                        f"{situations:,} situations in 2 orders", 2 * situations,
                    )
                )  # fmt: skip
        return found + self._calibrating()

    def _calibrating(self) -> list[StagePlan]:
        """Judges against the preferences of people, if there are any."""
        human = self.config.evaluation.human
        if human is None:
            return []
        items = min(self.config.evaluation.human_items or 10**9, len(read_human(human).items))
        one = self.config.model_copy(
            update={"evaluation": self.config.evaluation.model_copy(update={"human_items": 1})}
        )
        found = []
        for settings in self.config.evaluation.judges:
            step = configured.calibrate_judge(one, self._judge(settings), human, "", self.m0)
            (engine,) = self.store.run(step, 1).engines
            use = self._use(f"judge {settings.name}", settings.engine, engine, items)
            use = _reasoning(use, settings)
            found.append(
                self.costs.generation(
                    "calibrate-judge", settings.name, [use],
                    f"{items:,} items of people in 2 orders", 2 * items,
                )
            )  # fmt: skip
        return found

    def _judge(self, settings: JudgeConfig) -> Judge:
        """A judge; a prompt that is kept in MLflow is taken to be as long as the packaged one."""
        kept = PROMPTS.keeps(settings.prompt)
        asked = question(PROMPTS.names[0] if kept else settings.prompt)
        return Judge(settings=settings, question=asked, model=self.config.model)

    def steering(self) -> StagePlan:
        settings, play = self.config.steering_report, self.config.evaluation.selfplay
        number = self._situations("evaluation", settings.situations)
        shown = min(settings.shown_situations, number)
        engines = []
        for hidden in (False, True):  # what is done for each situation, and for those shown only
            step = configured.steering_evidence(self.config, self._model("m1"), self.opening)
            asked = settings.model_copy(update={"shown_situations": int(hidden)})
            step = _SteeringEvidence(**{**vars(step), "settings": asked})
            engines += self.store.run(step, self.settings.reply_tokens).engines
        each, with_shown = (engine.usage for engine in engines)
        uses = [
            Use("agent", play.agent_engine, each.requests * number, each.prompt_tokens * number,
                each.completion_tokens * number, engines[0].longest_prompt, settings.draws,
                settings.max_new_tokens),
            Use("agent, shown", play.agent_engine, (with_shown.requests - each.requests) * shown,
                (with_shown.prompt_tokens - each.prompt_tokens) * shown,
                (with_shown.completion_tokens - each.completion_tokens) * shown,
                engines[1].longest_prompt, 1, settings.max_new_tokens),
        ]  # fmt: skip
        what = f"{number} situations, {shown} shown"
        return self.costs.generation(
            "steering-evidence", "m1", uses, what, self.config.model.batch_size
        )

    # --- placeholders -----------------------------------------------------------------------------

    def _trained_dialogues(self) -> float:
        share = self.config.mixture.instructions.share if self.config.mixture.instructions else 0.0
        return self.dialogues / (1 - share)

    def _dialogue(self) -> Dialogue:
        turns = self.settings.turns or self.config.corpus.max_turns or self.config.corpus.min_turns
        messages = tuple(
            Message(
                "assistant" if turn % 2 else "user", self.text.of(self.settings.utterance_tokens)
            )
            for turn in range(turns)
        )
        return Dialogue("plan", "plan", "plan", messages)

    def _annotated(self, dialogue: Dialogue) -> AnnotatedDialogue:
        """The dialogue with states of the planned length."""
        state = self.text.state()
        turns = tuple(
            AnnotatedTurn.of(each.role, each.content, state) for each in dialogue.messages
        )
        return AnnotatedDialogue(dialogue.dialogue_id, turns)

    def _situation(self) -> Situation:
        return Situation("plan", self.text.of(self.settings.situation_tokens), "joyful", "search")

    def _situations(self, split: Split, limit: int) -> int:
        planned = {
            "search": self.settings.search_situations,
            "evaluation": self.settings.evaluation_situations,
        }[split]
        there = planned or len(situations(self.config.situations, split, 0))
        return min(limit, there) if limit else there

    def _model(self, name: str) -> Model:
        nothing = ArtifactRef("nothing", "", 0)
        return Model(name, nothing, None if name == "m0" else nothing)

    def _reply_tokens(self, name: str) -> float:
        lengths = {"m0": self.settings.m0_reply_tokens, "raw": self.settings.raw_reply_tokens}
        return lengths.get(name, self.settings.reply_tokens)

    def _replies(self, played: ArtifactRef) -> int:
        """Replies of the agent in one dialogue."""
        (row,) = self.store.rows(played, TRAJECTORIES, Trajectory)
        return sum(turn.role == "assistant" for turn in row.turns)

    def _use(
        self, role: str, engine: EngineConfig, counted: CountingEngine, times: float,
        candidates: int = 1, max_new_tokens: int = 0,
    ) -> Use:  # fmt: skip
        usage = counted.usage
        return Use(
            role, engine, usage.requests * times, usage.prompt_tokens * times,
            usage.completion_tokens * times, counted.longest_prompt, candidates, max_new_tokens,
        )  # fmt: skip

    def _sides(
        self, settings: SelfPlayConfig, engines: Sequence[CountingEngine], times: int,
        candidates: int,
    ) -> list[Use]:  # fmt: skip
        most = settings.sampling.budget(states=True)
        agent, user = engines[:2]
        return [
            self._use("agent", settings.agent_engine, agent, times, candidates, most),
            self._use("user", settings.user_engine, user, times, 1, most),
        ]


@dataclass(frozen=True, kw_only=True)
class _Measurements(Measurements):
    """Loads no embedder."""

    def embedder(self) -> "Embed":
        return _no_embedding


@dataclass(frozen=True, kw_only=True)
class _SteeringEvidence(SteeringEvidence):
    """Loads no embedder."""

    def embedder(self) -> None:
        return None


def _reasoning(use: Use, settings: AnswersSection) -> Use:
    """With all the tokens of reasoning that each written answer may have."""
    if not use.written:  # options are scored: nothing is said
        return use
    return replace(use, written=use.written + use.requests * settings.reasoning_tokens)


def _no_embedding(texts: Sequence[str], fitted_on: Sequence[str]) -> NDArray[np.float32]:
    return np.zeros((len(texts), 1), dtype=np.float32)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
