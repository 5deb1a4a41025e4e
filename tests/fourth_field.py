"""Run by ``test_states.py`` over a copy of the package that declares a fourth field, ``intensity``:
what derives from the declaration has it."""

import io
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import xgrammar
from rich.console import Console

from flows.commands.chat import show
from flows.commands.chat_web import SLIDERS
from sage_core import annotation, labels
from sage_core.chat import Chat
from sage_core.config.annotation import AnnotationConfig
from sage_core.config.conversation import ProfileConfig, SelfPlayConfig
from sage_core.config.steering import SteeringReportConfig
from sage_core.engines.base import Completion, Request
from sage_core.engines.grammar import action_grammar, sac_grammar, states_grammar, user_grammar
from sage_core.engines.steerer import Row, Steerer, Vocabulary
from sage_core.engines.steering import Ban, Force, Steering
from sage_core.evaluation import scenes
from sage_core.evaluation import steering as evidence
from sage_core.evaluation.annotations import annotation_figures
from sage_core.evaluation.measuring import _STATE_LIKE
from sage_core.evaluation.metrics import model_metrics
from sage_core.evaluation.report import ReportData, render_report
from sage_core.sac import StateAction, StateActionReply, is_well_formed, outline, parse, render
from sage_core.schema import (
    AnnotatedDialogue,
    AnnotatedTurn,
    Dialogue,
    Message,
    ScoredDialogue,
    ScoredTurn,
    SearchNode,
    Trajectory,
    TrajectoryTurn,
)
from sage_core.search.dialogue import Speaker, _opening
from sage_core.search.tree_display import as_text
from sage_core.states import FIELDS
from sage_core.storage import read_rows, write_rows

USER = StateAction("venting", "sad", ("rain", "bus"), "strong")
AGENT = StateAction("comfort", None, (), "mild")
TEXT = (
    "{u_motivation: venting, u_emotion: sad, u_topic: [rain, bus], u_intensity: strong} "
    "{a_motivation: comfort, a_emotion: null, a_topic: [], a_intensity: mild} Oh no."
)
BEFORE = (
    "{u_motivation: a, u_emotion: b, u_topic: [c]} {a_motivation: d, a_emotion: e, a_topic: []}"
)


def text_format() -> None:
    reply = StateActionReply(USER, AGENT, "Oh no.")
    assert render(reply) == TEXT
    assert parse(TEXT) == reply
    assert is_well_formed(TEXT)
    assert "a_intensity: ...} what is said" in outline()
    # Text and code from before the field was there.
    assert (
        parse(f"{BEFORE} hi").user
        == StateAction("a", "b", ("c",))
        == replace(USER, motivation="a", emotion="b", topics=("c",), intensity=None)
    )
    assert is_well_formed(f"{BEFORE} hi")
    assert not is_well_formed(TEXT.replace("u_topic: [rain, bus], ", ""))
    assert is_well_formed(f"{ProfileConfig().states} {ProfileConfig().consent}")
    assert parse(ProfileConfig().states).agent.intensity == "gentle"
    assert _STATE_LIKE.search("a_intensity")


def grammar() -> None:
    compiler = xgrammar.GrammarCompiler(xgrammar.TokenizerInfo([bytes([n]) for n in range(256)]))

    def accepts(rules: str, text: str) -> bool:
        return bool(xgrammar.GrammarMatcher(compiler.compile_grammar(rules)).accept_string(text))

    whole = sac_grammar().text
    assert accepts(whole, TEXT)
    assert not accepts(whole, f"{BEFORE} hi")
    assert accepts(states_grammar().text, TEXT.removesuffix("Oh no."))
    user, _, agent = TEXT.removesuffix("Oh no.").partition("} ")
    assert accepts(user_grammar().text, f"{user}}} ")
    assert accepts(action_grammar().text, f" {agent}")
    forced = sac_grammar([Force("agent", "intensity", ("très {fort}",))]).text
    assert accepts(forced, TEXT.replace("mild", "très {fort}"))
    assert not accepts(forced, TEXT)


def annotating() -> None:
    config = AnnotationConfig()
    schema = json.loads(annotation._schema(config).text)
    assert schema["required"] == ["motivation", "emotion", "topics", "intensity"]
    assert schema["properties"]["intensity"]["type"] == "string"
    dialogue = Dialogue("d", "s", "t", (Message("user", "It rains."),))
    asked, _, label, *_ = annotation._state_prompt(dialogue, 0, 0, config)
    assert "(topics), and how strongly it is felt (intensity). Use" in asked.content
    assert json.loads(label.content)["intensity"] == "strong"
    assert annotation.read_state(annotation.write_state(USER)) == USER
    before = '{"motivation": "a", "emotion": "b", "topics": ["c"]}'
    assert annotation.read_state(before) == StateAction("a", "b", ("c",))
    listed = AnnotationConfig(
        method="score", topics="extracted", motivations=("a", "b"), emotions=("c", "d")
    )
    scored = ScoredTurn("user", "It rains.", (0.0, 1.0), (1.0, 0.0))
    (one,) = labels.pick([ScoredDialogue("d", (scored,))], listed)
    assert one.turns[0].intensity is None  # it has no question, so it is not scored


def tables(folder: Path) -> None:
    rows = [AnnotatedDialogue("d", (AnnotatedTurn.of("user", "It rains.", USER),))]
    write_rows(folder / "sac.parquet", rows, AnnotatedDialogue)
    columns = pq.read_schema(folder / "sac.parquet").field("turns").type.value_type
    assert [field.name for field in columns][2:] == [field.column for field in FIELDS]
    assert columns.field("intensity").type == pa.string()
    assert read_rows(folder / "sac.parquet", AnnotatedDialogue) == rows
    assert rows[0].turns[0].state == USER
    # A table from before the field was there.
    turn = {"role": "user", "utterance": "x", "motivation": "a", "emotion": "b", "topics": ["c"]}
    pq.write_table(pa.Table.from_pylist([{"dialogue_id": "d", "turns": [turn]}]), folder / "old")
    (old,) = read_rows(folder / "old", AnnotatedDialogue)
    assert old.turns[0].state == StateAction("a", "b", ("c",))
    empty = annotation_figures(rows).empty
    assert empty == {"motivation": 0, "emotion": 0, "topics": 0, "intensity": 0, "all": 0}


def steering() -> None:
    """The force writes itself behind the list, and the ban is of the group's last value."""
    vocabulary = Vocabulary([bytes([n]) for n in range(256)], ())
    asked = Steering.read(
        force=["user.intensity=very strong"], ban=["intensity=mild"], boost=["intensity=calm:9"]
    )
    steerer = Steerer(vocabulary, asked, grammar=False)
    row, written = Row(), ""
    row.feed(b"{u_motivation: a, u_emotion: b, u_topic: [c]")
    while (edit := steerer.edit(row)) is not None and edit.alone:
        (token,) = edit.tokens
        written += chr(token)
        row.feed(bytes([token]))
    assert written == ", u_intensity: very strong} {a_motivation:"
    row.feed(b" a, a_emotion: b, a_topic: [], a_intensity:")
    assert raised(steerer, row) == {ord(" "): 9.0, ord("c"): 9.0}
    row.feed(b" mild")
    assert banned(steerer, row) >= {ord("}"), ord(",")}
    row.feed(b"er")
    assert not banned(steerer, row) & {ord("}")}
    assert Ban("agent", "intensity", "mild") in asked.bans
    scene = scenes.Scene(None, "", AGENT)  # type: ignore[arg-type]  # not looked at
    assert "a_intensity: strong}" in scenes.start_of(scene, "intensity", ("strong",))
    assert evidence._has(AGENT, "intensity", "Mild")
    assert "intensity" not in dict(evidence._tables(SteeringReportConfig()))  # no values are set


def raised(steerer: Steerer, row: Row) -> dict[int, float]:
    edit = steerer.edit(row)
    assert edit is not None
    found = zip(edit.tokens.tolist(), edit.values.tolist(), strict=True)
    return {token: value for token, value in found if value > 0}


def banned(steerer: Steerer, row: Row) -> set[int]:
    edit = steerer.edit(row)
    assert edit is not None
    found = zip(edit.tokens.tolist(), edit.values.tolist(), strict=True)
    return {token for token, value in found if value == -float("inf")}


def search() -> None:
    opening, notes = _opening(USER)
    assert parse(f"{opening} x").agent == USER
    assert notes == ()
    _, notes = _opening(replace(USER, intensity="}"))
    assert notes == ("user_state_not_set: intensity",)
    node = SearchNode("t", 0, -1, "action", "assistant", TEXT, None, True)
    assert "(comfort · mild)" in as_text([node])


def report() -> None:
    turns = (TrajectoryTurn("user", "It rains.", ()), TrajectoryTurn("assistant", TEXT, ()))
    said = Trajectory("t", "s", "It rains.", "sad", turns)
    metrics = model_metrics("m1", [said], states=True)
    assert asdict(metrics)["intensities"] == {"mild": 1}
    page = render_report(ReportData(title="x", models=(metrics,), dialogues=({"m1": said},)))
    assert "<h2>Motivations, emotions and intensities</h2>" in page
    assert "<h3>Intensities</h3>" in page
    assert '<span class="chip intensity">strong</span>' in page
    assert ".chip.intensity { background: #" in page


class Engine:
    """Says :data:`TEXT`, whatever it is asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def generate(self, requests: Sequence[Request]) -> list[list[Completion]]:
        self.asked += requests
        return [[Completion(TEXT, "stop", 9)] for _ in requests]


def chat() -> None:
    engine = Engine()
    force = Steering.read(force=["intensity=mild"])
    agent = Speaker("m1", engine, True, ProfileConfig())  # type: ignore[arg-type]
    turn = Chat(agent, SelfPlayConfig(), 0, force).reply("It rains.")
    assert turn.as_dict()["user"]["intensity"] == "strong"
    assert engine.asked[0].constraint == sac_grammar(force.forces)
    out = Console(file=io.StringIO(), width=200)
    show(turn, "m1", out)
    assert isinstance(out.file, io.StringIO)
    assert "comfort | - | - | mild" in out.file.getvalue()
    assert "agent.intensity=mild" in SLIDERS


if __name__ == "__main__":
    text_format()
    grammar()
    annotating()
    with tempfile.TemporaryDirectory() as folder:
        tables(Path(folder))
    steering()
    search()
    report()
    chat()
