"""The report page: what it shows, that it stands alone, and that it is the same every time."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from sage_core.answers.tally import Tally
from sage_core.corpus.build import FunnelStep
from sage_core.evaluation.annotations import AnnotationFigures
from sage_core.evaluation.faithfulness import ActionEffect, Contrast, Faithfulness
from sage_core.evaluation.metrics import Mean, ModelMetrics, Rate, model_metrics
from sage_core.evaluation.quality import Measurements, Quality, compare
from sage_core.evaluation.report import ReportData, render_report, render_steering
from sage_core.evaluation.rows import of_run
from sage_core.evaluation.steering import (
    Dose,
    DoseResponse,
    ForcedReplies,
    ForcedReply,
    SteeringEvidence,
)
from sage_core.evaluation.tournament import design
from sage_core.evaluation.variance import Decided
from sage_core.evaluation.winrate import PairSummary, verdict
from sage_core.schema import (
    Candidate,
    Judgement,
    NodeKind,
    SearchNode,
    Showing,
    Trajectory,
    TrajectoryTurn,
)
from sage_core.search.figures import search_figures
from sage_core.search.tree_display import as_text, steps
from sage_core.states import SINGLE

VOID = {"meta", "br", "link", "img", "input", "hr"}
GOOD = PairSummary("the judge", "m0", "m1", 200, 60, 40, 100, 7, 0.0019, 0.0038, 0.08, 0.32)
NOTHING = PairSummary("the judge", "m1", "m2", 0, 0, 0, 0, 9, None, None, None, None)


def chain(utterance: str) -> str:
    return (
        "{u_motivation: venting, u_emotion: lonely, u_topic: [cats & dogs]} "
        f"{{a_motivation: sympathy, a_emotion: caring, a_topic: []}} {utterance}"
    )


def trajectory(said: str, candidates: tuple[Candidate, ...] = ()) -> Trajectory:
    turns = (
        TrajectoryTurn("user", "My cat ran away.", ()),
        TrajectoryTurn("assistant", chain(said), candidates),
    )
    return Trajectory("t", "s", "My cat ran away.", "lonely", turns)


SHOWINGS = [Showing("t", f"b{n}", 0, 2, place) for n, place in enumerate((0, 0, 1, None))]


def tree(said: str = "Cats do that.") -> tuple[SearchNode, ...]:
    def node(
        number: int,
        parent: int,
        kind: NodeKind,
        content: str,
        votes: float | None = None,
        *,
        chosen: bool = False,
        role: str = "assistant",
    ) -> SearchNode:
        return SearchNode("t", number, parent, kind, role, content, votes, chosen)

    actions = [chain(word).removesuffix(f" {word}") for word in ("x", "y")]
    return (
        node(0, -1, "situation", "My cat ran away.", role="user", chosen=True),
        node(1, 0, "action", actions[0], 0.0),
        node(2, 1, "reply", chain(said)),
        node(3, 2, "look_ahead", "What now?", role="user"),
        node(4, 0, "action", actions[1], 1.5, chosen=True),
        node(5, 4, "reply", chain("Oh no! When?"), 4.5, chosen=True),
        node(6, 5, "look_ahead", "Last night.", role="user"),
        node(7, 4, "reply", chain("Since when?"), float("-inf")),
        node(8, 5, "reply", "On Monday.", role="user", chosen=True),
    )


def full() -> ReportData:
    candidates = (
        Candidate(chain("Cats do that."), 1.0, False),
        Candidate(chain("Oh no! When?"), 4.5, True),
    )
    said = trajectory("Oh no! When?", candidates)
    m0 = ModelMetrics(
        "m0", Mean.of([80, 90]), Rate.of(1, 2), 0.9, Rate.of(0, 0), *({} for _ in SINGLE)
    )
    data = ReportData(
        title="Report of a test",
        facts={"Base model": "tiny-model", "Seed": "17"},
        notes=("The judge is small.",),
        funnel=(
            FunnelStep(step="read", kept=1200, dropped=0, quarantined=3),
            FunnelStep(step="min_turns", kept=300, dropped=900),
        ),
        annotation=AnnotationFigures(
            80,
            {"motivation": 2, "emotion": 3, "topics": 1, "all": 0},
            4,
            6,
            Rate.of(57, 70),
            Rate.of(99, 120),
        ),
        models=(m0, model_metrics("m1", [said] * 3, states=True)),
        lineage={"m0": "as downloaded", "m1": "m0 + LoRA"},
        losses={"m1": [(1, 3.0), (2, 2.0)], "dpo": [(1, 0.69)]},
        summaries=(GOOD, NOTHING),
        design=design("design", 0.2, ["m0", "m1", "m2"], [("m0", "m1"), ("m0", "m2")], 100),
        answers=answers(),
        position_bias={"the judge": Rate.of(63, 100), "undecided": Rate.of(0, 0)},
        grammar_probe={"with grammar": Rate.of(0, 50), "without grammar": Rate.of(20, 50)},
        dialogues=({"m0": trajectory("I see."), "m1": said}, {}),
        searches=(search_figures("m1", [said], SHOWINGS),),
        search_tree=tree(),
        quality=measured(),
        steering=steered(),
        config_yaml="seed: 17\n",
    )
    verdicts = [
        Judgement("s", "the judge", "m0", "m1", order, verdict, "")
        for order, verdict in (("ab", "model_a"), ("ba", "tie"))
    ]
    rollouts = {"m0": [trajectory("I see.")], "m1": [said]}
    return replace(data, rows=of_run(data, verdicts, rollouts, found(), {"m1": [said]}))


def answers() -> Tally:
    """The judge's: 3 of 5 read."""
    tally = Tally()
    for number in range(3):
        tally.add("judge the judge", f"judge/{number}", "read")
    tally.add("judge the judge", "judge/3", "refused", "I <cannot> judge.")
    tally.add("judge the judge", "judge/4", "content_filter")
    tally.add("annotator", "annotate/1", "read")
    return tally


def measured(model: str = "m2") -> Quality:
    """m1 found in 1 of 4 situations and m2 in all; m2's replies are likelier in each."""
    return compare(found(model), 1000, 0)


def found(model: str = "m2") -> list[Measurements]:
    names = [f"s{number}" for number in range(4)]
    return [
        Measurements(
            name, "all-MiniLM-L6-v2", 12, notes,
            {
                "situation_recovery": {each: [float(each in right)] for each in names},
                "loglik_m0": {each: [level + 0.25 * number] for number, each in enumerate(names)},
            },
        )
        for name, right, level, notes in (
            ("m1", names[:1], -4.0, {}), (model, names, -3.0, {"no_first_reply": 2})
        )
    ]  # fmt: skip


def steered(evil: str = "playful") -> SteeringEvidence:
    doses = tuple(Dose(boost, Rate.of(hits, 50)) for boost, hits in ((0, 1), (8, 48)))
    humor = Contrast("humor", "concern", Mean.of([0.25, 0.75]), Rate.of(9, 16))
    replies = (
        ForcedReply((), chain("The own words."), False),
        ForcedReply((evil,), chain(f"The forced words of {evil}."), True),
    )
    return SteeringEvidence(
        model="m1",
        seed=17,
        situations=25,
        draws=2,
        dose_responses=(DoseResponse("emotion", evil, doses),),
        faithfulness=(
            Faithfulness(
                "motivation",
                ("humor", "concern"),
                (humor,),
                Mean.of([0.5]),
                Rate.of(9, 16),
                (
                    ActionEffect("embedding", Decided(8, 0.4, 0.25, 0.125, 0.5, 0.0123)),
                    ActionEffect("question", Decided(8, None, None, None, None, None)),
                ),
                3,
            ),
        ),
        forced=(
            ForcedReplies("emotion", "s", "My cat ran away.", replies),
            ForcedReplies("topic", "s", "My cat ran away.", replies[:1]),
        ),
    )


class Page(HTMLParser):
    """Collects what the tests look at: ids, references, tags left open, visible text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: Counter[str] = Counter()
        self.references: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    @property
    def anchors(self) -> set[str]:
        """The places in the page that it refers to."""
        return {each[1:] for each in self.references if each.startswith("#")}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._read(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._read(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        self.text += data

    def _read(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            if name == "id":
                self.ids[value or ""] += 1
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.references.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")


def words(html: str) -> str:
    return " ".join(Page(html).text.split())


def test_the_tree_is_read_step_by_step_along_the_chosen_branch() -> None:
    found = [[branch.node.node for branch in step] for step in steps(tree())]
    assert found == [[0], [1, 4], [5, 7], [8]]
    (lost, _) = steps(tree())[1]
    assert [branch.node.node for branch in lost.aside] == [2]
    assert [branch.node.node for branch in lost.aside[0].aside] == [3]
    (chosen, _) = steps(tree())[2]
    assert [branch.node.node for branch in chosen.aside] == [6]
    assert steps(()) == []


def test_the_tree_in_text() -> None:
    assert as_text(tree()) == "".join(
        f"{line}\n"
        for line in (
            "> Person: My cat ran away.",
            "├──   [0] (sympathy · caring)",
            "│   └──   (sympathy · caring) Cats do that.",
            "│       └── … Person: What now?",
            "└── > [1.5] (sympathy · caring)",
            "    ├── > [4.5] (sympathy · caring) Oh no! When?",
            "    │   ├── … Person: Last night.",
            "    │   └── > Person: On Monday.",
            "    └──   [-inf] (sympathy · caring) Since when?",
        )
    )


def test_the_search_is_shown_with_its_endings_bias_and_tree() -> None:
    """Of three decided showings of two options the first place won two."""
    text = " ".join(Page(render_report(full())).text.split())
    assert "1 as many turns as asked for" in text
    assert "66.7% 20.8\N{EN DASH}93.9 fair: 50.033.3% 6.1\N{EN DASH}79.2 fair: 50.0" in text
    assert "4.5 votes" in text
    assert "-inf votes" in text
    assert "look ahead" in text
    assert text.index("Cats do that.") < text.index("Oh no! When?") < text.index("On Monday.")


def test_numbers_are_on_the_page() -> None:
    text = words(render_report(full()))
    assert "Report of a test" in text
    assert "tiny-model" in text
    assert "The judge is small." in text
    # (100 - 60) / 200 = 20% of items.
    assert "60 40 100 200 7 +20.0 +8.0 to +32.0 0.002 0.004 m1 better" in text
    assert "1 of 2 comparisons show a difference" in text
    assert "63.0%" in text  # position bias, 63 of 100
    assert "85.0" in text  # words per reply of m0: (80 + 90) / 2
    assert "100.0%" in text  # m1 told 'lonely' in 3 of 3
    assert "1,200" in text
    assert "25.0%" in text  # 300 of 1,200 kept
    assert "3 unreadable records" in text
    assert "40.0%" in text  # malformed without grammar: 20 of 50
    assert "4.5 votes" in text
    assert "seed: 17" in text
    assert "86.2" in text  # the paper's lengths


def test_answers_are_told_by_who_gave_them() -> None:
    """Columns are the outcomes that there are; the words of unread answers are among the rows."""
    html = render_report(full())
    told = words(html).replace("\N{EN DASH}", "-")
    assert "AskedRead (95% interval)refusedcontent filter" in told
    assert "judge the judge60.0% 23.1-88.2, n = 5 11" in told
    assert "annotator100.0% 20.7-100.0, n = 1 00" in told
    assert "Content filter: the server's content filter refused the request or the answer." in told
    assert "judge/3refusedI <cannot> judge." in told
    assert "I &lt;cannot&gt; judge." in html
    (rows,) = [each for each in full().rows if each.name == "answers"]
    assert rows.rows == (
        ("annotator", "read", 1),
        ("judge the judge", "read", 3),
        ("judge the judge", "refused", 1),
        ("judge the judge", "content_filter", 1),
    )
    assert '<h3 id="answers">' not in render_report(replace(full(), answers=Tally()))


def test_pairs_that_were_not_judged_are_told_with_the_situations_needed() -> None:
    """m1 and m2 are two comparisons apart: 2 * 1.96 * sqrt(2 / 100) = 0.55 wide."""
    told = words(render_report(full())).replace("\N{EN DASH}", "-")
    assert "2 of 3 pairs of models were judged (evaluation.pairs=design)" in told
    assert "0.2 needs 769 situations, with all pairs 257." in told
    assert "m1 - m20.55769" in told


def test_judges_come_in_order_of_first_appearance_and_are_never_merged() -> None:
    judges = ["b", "a", "B", "b"]
    pairs = tuple(replace(GOOD, judge=name, model_b=f"m{i}") for i, name in enumerate(judges))
    html = render_report(replace(full(), summaries=pairs))
    assert re.findall(r"<h3>Judge: (.)</h3>", html) == ["b", "a", "B"]
    assert re.findall(r"m0 . (m\d)<", html) == ["m0", "m3", "m1", "m2"]


def test_states_stand_beside_utterances_not_in_them() -> None:
    html = render_report(full())
    assert '<span class="chip motivation">sympathy</span>' in html
    assert "cats &amp; dogs" in html
    assert "a_motivation" not in html


def test_text_of_models_is_escaped() -> None:
    evil = "<script>alert(1)</script><img src=http://evil.example/x>"
    said = trajectory(evil, (Candidate(chain(evil), 1.0, True), Candidate(evil, 0.0, False)))
    metrics = replace(
        full().models[1], motivations={"<script>$x": 3, "$y$": 1}, emotions={"]]><b>&": 1}
    )
    html = render_report(
        replace(
            full(),
            dialogues=({"m1": said},),
            search_tree=tree(evil),
            models=(metrics,),
            config_yaml=evil,
            notes=(evil,),
            steering=steered(evil),
        )
    )
    page = Page(html)
    assert page.tags["script"] == page.tags["img"] == page.tags["b"] == 0
    assert evil in page.text
    assert "<script>$x" in page.text


def test_steering_is_told_with_its_numbers() -> None:
    text = words(render_report(full()))
    assert re.search(r"emotion: playful 2.0% 0.4.10.5, n = 50 96.0%", text)  # Wilson, 1 of 50
    assert "humor or concern +0.500 -2.677 to +3.677, n = 2 56.2%" in text  # t(1) = 12.706
    assert "own choice: caring The own words." in text
    assert "playful The forced words of playful. …" in text
    assert "Table 3" in text
    assert "Table 5" not in text  # of the tables, the emotions only
    assert "Does the state follow" not in words(render_report(replace(full(), steering=None)))


def test_measures_without_a_judge_have_their_n_interval_and_difference() -> None:
    """1 of 4 (Wilson: 4.6 to 69.9) against 4 of 4 (51.0 to 100); the likelihoods differ by 1 in
    every situation, whatever is drawn."""
    text = words(render_report(full()))
    assert "matched with 12 situations" in text
    assert "by chance it is found in 8.3%" in text
    assert "all-MiniLM-L6-v2" in text
    assert "25.0% 4.6 to 69.9, n = 4" in text
    assert "100.0% 51.0 to 100.0, n = 4" in text
    assert "+1.00 (+1.00 to +1.00)" in text
    assert "m2: 2 no first reply." in text
    assert "Without a judge" not in words(render_report(replace(full(), quality=None)))


def test_what_the_action_decides_is_told() -> None:
    text = words(render_report(full()))
    assert (
        "motivation: 2 actions, 3 wordings embedding 0.400 0.250 0.125 to 0.500, n = 8 0.012"
        in text
    )
    assert "does not vary" in text


def test_the_page_of_steering_alone() -> None:
    html = render_steering(ReportData("Steering m1", steering=steered(), config_yaml="seed: 17"))
    page = Page(html)
    assert page.open == []
    assert page.tags["svg"] == 1
    assert set(page.ids.values()) == {1}
    assert page.anchors <= set(page.ids)
    text = words(html)
    assert "Table 3" in text
    assert "Table 5" in text
    assert "own choice: none The own words." in text  # the chain has no topics
    assert "Judge" not in text
    assert "seed: 17" in text


@pytest.mark.parametrize("render", [render_report, render_steering])
def test_the_page_stands_alone(render: Callable[[ReportData], str]) -> None:
    html = render(full())
    page = Page(html)
    assert page.open == []
    assert page.references
    assert all(
        reference.startswith(("#", "data:text/csv;charset=utf-8;base64,"))
        for reference in page.references
    )
    assert not re.search(r"https?://|@import|<link|<script", html)


def test_every_id_is_unique_and_every_reference_has_one() -> None:
    page = Page(render_report(full()))
    assert page.tags["svg"] == 5
    assert set(page.ids.values()) == {1}
    assert page.anchors <= set(page.ids)


def test_same_data_same_bytes() -> None:
    assert render_report(full()) == render_report(full())


def test_empty_parts() -> None:
    html = render_report(ReportData(title="Empty"))
    page = Page(html)
    assert page.open == []
    assert page.tags["svg"] == 0
    assert "Nothing was judged" in page.text
    assert "No search was made" in page.text


def test_a_pair_without_items_and_a_model_without_replies() -> None:
    nobody = model_metrics("m2", [], states=True)
    html = render_report(ReportData(title="x", models=(nobody,), summaries=(NOTHING,)))
    assert "no item counts" in html
    assert "nothing to compare" in html
    assert "None" not in words(html)


@pytest.mark.parametrize(
    ("wins_a", "wins_b", "p_value", "p_holm", "expected"),
    [
        (10, 30, 0.01, 0.049, "m1 better"),
        (30, 10, 0.01, 0.049, "m0 better"),
        (10, 30, 0.01, 0.05, "m1 ahead, but not among all pairs"),
        (10, 30, 0.05, 0.05, "no difference shown"),
        (0, 0, None, None, "nothing to compare"),
    ],
)
def test_verdict(
    wins_a: int, wins_b: int, p_value: float | None, p_holm: float | None, expected: str
) -> None:
    pair = replace(GOOD, wins_a=wins_a, wins_b=wins_b, p_value=p_value, p_holm=p_holm)
    assert verdict(pair) == expected
