"""What each stage of a run asks and trains on, found by running its real code on placeholders."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sage_core import annotation, labels, mixture
from sage_core.config import EngineConfig, PipelineConfig, SelfPlayConfig
from sage_core.errors import ConfigError
from sage_core.evaluation import judge
from sage_core.planning.costs import Costs, StagePlan, Use
from sage_core.planning.counting import CountingEngine, Text
from sage_core.sac import utterance_of
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    Situation,
    Split,
    Trajectory,
)
from sage_core.search import selfplay
from sage_core.search.dialogue import Speaker
from sage_core.search.selector import RandomSelector
from sage_core.search.setup import selector_of, strategy_of
from sage_core.search.situations import situations
from sage_core.search.strategies import Players
from sage_core.training import data

_KEPT_TWICE = 2  # what a search writes is kept in its trajectories and in its tree


def plan(config: PipelineConfig) -> list[StagePlan]:
    """The estimate of every stage that costs anything, in the order of the run; with
    ``refine.stop = 'saturation'`` of the most rounds there may be.

    Raises:
        ConfigError: the model's size, or the number of dialogues or situations, is not known.
    """
    return _Planner(config).stages()


def planned_dialogues(config: PipelineConfig) -> int:
    """How many dialogues are trained on; 0 = not known before the corpora are read."""
    most = [corpus.max_dialogues for corpus in (config.corpus, *config.mixture.corpora)]
    return config.plan.dialogues or (sum(most) if all(most) else 0)


class _Planner:
    def __init__(self, config: PipelineConfig) -> None:
        self.config, self.settings = config, config.plan
        self.text = Text(config.plan)
        self.costs = Costs(config)
        self.dialogues = planned_dialogues(config)
        if not self.dialogues:
            raise ConfigError(
                "how many dialogues the corpora keep is not known before they are read; set "
                "plan.dialogues, or max_dialogues of each corpus"
            )
        self.openings = self._situations("search", config.search.situations)
        self.held_out = self._situations("evaluation", config.evaluation.situations)
        refined = [f"m{number}" for number in range(2, config.refine.most_rounds + 2)]
        self.chain = ["m1", *refined]
        self.models = ["m0", "raw", *self.chain, "dpo"]

    def stages(self) -> list[StagePlan]:
        config = self.config
        annotated, annotation_plan = self.annotation()
        trained = {}
        for name, states in (("raw", False), ("m1", True)):
            rows = mixture.training_text([annotated], config.conversation, states=states)
            trained[name] = _mean([self.text.conversation(row.messages) for row in rows])
        count = self._trained_dialogues() * len(rows)
        found = [self.costs.base(), annotation_plan]
        for name, tokens in trained.items():
            found.append(self.costs.training("sft", name, count, "dialogues", tokens,
                                             config.sft.epochs, config.sft))  # fmt: skip
        found.append(self.probe())
        rollouts = {name: self.rollout(name) for name in self.models}
        selected, search = self.search()
        dialogue = sum(
            self.text.conversation(each.messages)
            for each in data.selected_dialogues([selected], config.conversation.agent)
        )
        for last, name in zip(self.chain, self.chain[1:], strict=False):
            found.append(replace(search, label=last))
            settings = config.refine.sft
            found.append(self.costs.training("sft", name, self.openings, "trajectories", dialogue,
                                             settings.epochs, settings))  # fmt: skip
        if config.dpo.pairs_from == "last":
            found.append(replace(search, label=self.chain[-1]))
        found.append(self.preference(selected))
        found += [stage for _, stage in rollouts.values()]
        played = {name: trajectory for name, (trajectory, _) in rollouts.items()}
        found += [self.measurements(name, played[name]) for name in self.models]
        found += [self.health(name, played[name]) for name in self.chain]
        found += self.judging(played)
        if config.steering_report.enabled:
            found.append(self.steering())
        return found

    # --- what each stage asks ---------------------------------------------------------------------

    def annotation(self) -> tuple[Any, StagePlan]:
        settings = self.config.annotation
        engine = self._engine(self.settings.utterance_tokens)
        dialogue = self._dialogue()
        if settings.method == "score":
            labels.score([dialogue], engine, settings, self.config.seed)
            annotated = self._annotated(dialogue)
        else:
            (annotated,) = annotation.annotate([dialogue], engine, settings, self.config.seed)
        uses = [self._use("annotator", settings.engine, engine, self.dialogues)]
        if settings.compares_situations:
            compared = self._engine(0)
            labels.score_situations([self._situation()], compared, settings, self.config.seed)
            number = self._situations("search", labels.REFERENCE)
            uses.append(self._use("annotator, situations", settings.engine, compared, number))
        return annotated, self.costs.generation(
            "annotate-shard", "", uses, f"{self.dialogues:,} dialogues of "
            f"{len(dialogue.messages)} turns", self.config.model.batch_size,
        )  # fmt: skip

    def probe(self) -> StagePlan:
        settings = self.config.search
        limit = min(settings.grammar_probe, self.openings)
        agent = self._speaker("m1")
        for constrained in (True, False):
            rules = settings.selfplay.model_copy(update={"state_grammar": constrained})
            selfplay.count_malformed([self._situation()], agent, rules, self.config.seed)
        use = self._use("agent", settings.selfplay.agent_engine, agent.engine, limit,
                        max_new_tokens=settings.selfplay.sampling.budget(states=True))  # fmt: skip
        return self.costs.generation("grammar-probe", "", [use], f"{limit} situations", limit)

    def rollout(self, name: str) -> tuple[Trajectory, StagePlan]:
        settings = self.config.evaluation.selfplay
        agent, user = self._speaker(name), self._user()
        players = Players(agent, user, settings, self.config.seed)
        (played,) = selfplay.self_play([self._situation()], players)
        uses = self._sides(settings, agent, user, self.held_out, 1)
        return played, self.costs.generation(
            "rollout-shard", name, uses, f"{self.held_out:,} situations of {settings.max_turns} "
            "turns", settings.shard_size,
        )  # fmt: skip

    def search(self) -> tuple[Trajectory, StagePlan]:
        settings = self.config.search
        agent, user = self._speaker("m1"), self._user()
        judge_engine = self._engine(1)
        selector = (
            selector_of(settings.selector, lambda: judge_engine, self.config.seed, "")
            if settings.selector.asks_engine
            else RandomSelector(self.config.seed)
        )
        players = Players(agent, user, settings.selfplay, self.config.seed, selector)
        (found,) = selfplay.search([self._situation()], players, strategy_of(settings))
        uses = self._sides(settings.selfplay, agent, user, self.openings, settings.candidates)
        if settings.selector.asks_engine:
            engine = settings.selector.engine
            use = self._use("selector", engine, judge_engine, self.openings)
            if engine.kind == "openai":  # which answers a choice with a token
                use = replace(use, written=use.requests)
            uses.append(use)
        return found.trajectory, self.costs.generation(
            "search-shard", "", uses, f"{self.openings:,} situations of "
            f"{settings.selfplay.max_turns} turns and {settings.candidates} candidates",
            settings.selfplay.shard_size, kept=_KEPT_TWICE,
        )  # fmt: skip

    def preference(self, selected: Trajectory) -> StagePlan:
        config = self.config.dpo
        profile = self.config.conversation.agent
        pairs = data.preference_pairs([selected], profile, self.config.seed, config.rejected)
        rounds = 1 if config.pairs_from == "last" else len(self.chain) - 1
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

    def health(self, name: str, played: Trajectory) -> StagePlan:
        from sage_core.evaluation import collapse  # imports scipy

        config = self.config.evaluation.selfplay
        replies = sum(turn.role == "assistant" for turn in played.turns)
        number = min(self.config.refine.gates.kl_replies, replies * self.held_out)
        agent, m0 = self._speaker("m1"), self._engine(0)
        collapse.health([played], agent, m0, config, replies, self.config.seed)
        times = number / max(1, replies)
        uses = [
            self._use(role, config.agent_engine, engine, times)
            for role, engine in (("agent", agent.engine), ("m0", m0))
        ]
        return self.costs.generation("model-health", name, uses, f"{number} replies", number)

    def measurements(self, name: str, played: Trajectory) -> StagePlan:
        from sage_core.evaluation import quality  # imports scipy

        settings = self.config.evaluation.quality
        number = min(settings.situations or self.held_out, self.held_out)
        matched = min(settings.alternatives or self.held_out, number - 1) + 1
        rows = [
            replace(
                played,
                situation_id=f"plan{n}",
                situation=f"{played.situation} {n}",
                turns=tuple(  # other words in each, since equal replies are scored once
                    replace(turn, content=f"{n} {utterance_of(turn.content)}")
                    for turn in played.turns
                ),
            )
            for n in range(matched)
        ]
        replies = sum(turn.role == "assistant" for turn in played.turns)
        scored = min(settings.likelihood_replies, replies * self.held_out)
        likelihood, matching = self._engine(0), self._engine(0)
        every = settings.model_copy(update={"likelihood_replies": replies})
        quality.measure(name, rows[:1], likelihood, every, self.config.seed, states=False,
                        embed=_no_embedding)  # fmt: skip
        none = settings.model_copy(update={"likelihood_replies": 0})
        quality.measure(name, rows, matching, none, self.config.seed, states=False,
                        embed=_no_embedding)  # fmt: skip
        engine = self.config.evaluation.selfplay.agent_engine
        uses = [
            self._use("m0, likelihood", engine, likelihood, scored / max(1, replies)),
            self._use("m0, matching", engine, matching, number / matched),
        ]
        what = f"{number} situations with {matched - 1} others, {scored} replies"
        return self.costs.generation("measurements", name, uses, what, number)

    def judging(self, played: dict[str, Trajectory]) -> list[StagePlan]:
        found = []
        for settings in self.config.evaluation.judges:
            for a, b in judge.model_pairs(self.models):
                engine = self._engine(1)
                judge.judge_pair(a, b, [played[a]], [played[b]], engine, settings, self.config.seed)
                use = self._use(f"judge {settings.name}", settings.engine, engine, self.held_out)
                found.append(
                    self.costs.generation(
                        "judge-pair", f"{settings.name} {a}-{b}", [use],
                        f"{self.held_out:,} situations in 2 orders", 2 * self.held_out,
                    )
                )  # fmt: skip
        return found

    def steering(self) -> StagePlan:
        from sage_core.evaluation import steering  # imports scipy

        settings, play = self.config.steering_report, self.config.evaluation.selfplay
        number = self._situations("evaluation", settings.situations)
        shown = min(settings.shown_situations, number)
        engines = []
        for hidden in (False, True):  # what is done for each situation, and for those shown only
            engines.append(self._engine(self.settings.reply_tokens))
            asked = settings.model_copy(update={"shown_situations": int(hidden)})
            agent = replace(self._speaker("m1"), engine=engines[-1])
            steering.evidence([self._situation()], agent, asked, play, self.config.seed)
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
            AnnotatedTurn(each.role, each.content, state.motivation, state.emotion, state.topics)
            for each in dialogue.messages
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

    def _engine(self, reply_tokens: float) -> CountingEngine:
        return CountingEngine(self.text, self.config.model.max_context, reply_tokens)

    def _speaker(self, name: str) -> Speaker:
        lengths = {"m0": self.settings.m0_reply_tokens, "raw": self.settings.raw_reply_tokens}
        engine = self._engine(lengths.get(name, self.settings.reply_tokens))
        return Speaker(name, engine, name not in lengths, self.config.conversation.agent)

    def _user(self) -> Speaker:
        engine = self._engine(self.settings.user_tokens)
        return Speaker("m1", engine, True, self.config.conversation.user)

    def _use(
        self, role: str, engine: EngineConfig, counted: Any, times: float, candidates: int = 1,
        max_new_tokens: int = 0,
    ) -> Use:  # fmt: skip
        usage = counted.usage
        return Use(
            role, engine, usage.requests * times, usage.prompt_tokens * times,
            usage.completion_tokens * times, counted.longest_prompt, candidates, max_new_tokens,
        )  # fmt: skip

    def _sides(
        self, settings: SelfPlayConfig, agent: Speaker, user: Speaker, times: int, candidates: int
    ) -> list[Use]:
        most = settings.sampling.budget(states=True)
        return [
            self._use("agent", settings.agent_engine, agent.engine, times, candidates, most),
            self._use("user", settings.user_engine, user.engine, times, 1, most),
        ]


def _no_embedding(texts: Sequence[str], fitted_on: Sequence[str]) -> NDArray[np.float32]:
    return np.zeros((len(texts), 1), dtype=np.float32)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
