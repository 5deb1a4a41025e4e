"""The declaration of the state fields: it agrees with itself, it gives the published format, and
nothing lists the fields beside it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pyarrow as pa
import pytest

from sage_core.engines.grammar import sac_grammar
from sage_core.sac import USER, outline, render_state
from sage_core.schema import ARROW_SCHEMAS, AnnotatedDialogue, ScoredDialogue
from sage_core.states import EMPTY, EXAMPLES, FIELDS, LIMITS, StateAction, StateField

ROOT = Path(__file__).parent.parent


def test_the_declarations_agree_with_the_state() -> None:
    attributes = {each.name: each.type for each in fields(StateAction)}
    assert list(attributes) == [field.column for field in FIELDS]
    assert [field.many for field in FIELDS] == [
        kind == tuple[str, ...] for kind in attributes.values()
    ]


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_declared_value_can_be_written_and_read(field: StateField) -> None:
    """By the format, within the limits of the grammar, one for each example."""
    assert len(field.examples) == len(EXAMPLES)
    for values in (*field.examples, *((value,) for value in (*field.consent, *field.sliders))):
        assert 1 <= len(values) <= field.most
        state = field.put(EMPTY, values)
        assert field.of(state) == values
        assert values[-1] in render_state(state, USER.written)
        for value in values:
            words = value.split(" ")
            assert len(words) <= LIMITS.words
            assert max(map(len, words)) <= LIMITS.letters
    assert field.of(field.put(state, ())) == ()


def test_the_published_format() -> None:
    """Seams: the keys of the text and the columns of the tables."""
    assert outline() == (
        "{u_motivation: ..., u_emotion: ..., u_topic: [...]} "
        "{a_motivation: ..., a_emotion: ..., a_topic: [...]} what is said"
    )
    strings, numbers = pa.list_(pa.string()), pa.list_(pa.float64())
    shared = [pa.field("role", pa.string()), pa.field("utterance", pa.string())]
    assert ARROW_SCHEMAS[AnnotatedDialogue].field("turns").type == pa.list_(
        pa.struct([*shared, ("motivation", pa.string()), ("emotion", pa.string()),
                   ("topics", strings)])
    )  # fmt: skip
    assert ARROW_SCHEMAS[ScoredDialogue].field("turns").type == pa.list_(
        pa.struct([*shared, ("motivations", numbers), ("emotions", numbers)])
    )


def test_the_grammar_of_the_published_format() -> None:
    """Servers compile it, and stored answers are found by it: to the letter."""
    root, *rules = sac_grammar().text.splitlines()
    assert root == (
        'root ::= "{u_motivation: " value ", u_emotion: " value ", u_topic: [" topics "]} " '
        '"{a_motivation: " value ", a_emotion: " value ", a_topic: [" topics "]} " utterance'
    )
    assert rules == [
        'value ::= word (" " word){0,2}',
        'topics ::= (topic (", " topic){0,2})?',
        'topic ::= word (" " word){0,2}',
        "word ::= [A-Za-z0-9] [A-Za-z0-9'-]{0,23}",
        r"utterance ::= [^ \t\r\n\0{}] [^\0{}]*",
    ]


INTENSITY = """
INTENSITY = StateField(
    name="intensity",
    plural="intensities",
    asked="how strongly it is felt",
    examples=tuple((value,) for value in ("strong", "mild") * (len(EXAMPLES) // 2)),
    consent=("mild", "gentle"),
    sliders=("mild",),
)

"""


def test_a_fourth_field_is_one_declaration(tmp_path: Path) -> None:
    """One file changes, by a declaration, an attribute and a name."""
    for package in ("sage_core", "flows", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package)
    path = tmp_path / "sage_core" / "states.py"
    text = path.read_text("utf-8")
    for old, new in (
        (r"\n@dataclass\(frozen=True\)\nclass StateAction:", f"{INTENSITY}\\g<0>"),
        (r"(?m)^    topics: tuple\[str, \.\.\.\]\n", "\\g<0>    intensity: str | None = None\n"),
        (r"(?m)^FIELDS = \(.*(?=\)$)", "\\g<0>, INTENSITY"),
    ):
        text, changed = re.subn(old, new, text)
        assert changed == 1, old
    path.write_text(text, "utf-8")
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fourth_field.py")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# What may name a field, and why. Adding a field changes none of it.
_LABEL = "a situation's label is an emotion"
_EVERY = " ".join(field.name for field in FIELDS)
ABOUT = {
    "flows/commands/tables.py": ("emotion", "the measure emotion_accuracy"),
    "sage_core/annotation.py": ("topic", "topics can be held to words of the dialogue"),
    "sage_core/config/annotation.py": (_EVERY, "the settings of each field"),
    "sage_core/config/conversation.py": ("emotion", _LABEL),
    "sage_core/config/empathy.py": ("emotion", _LABEL),
    "sage_core/config/refine.py": ("motivation", "the entropy of actions is that of motivations"),
    "sage_core/config/steering.py": (_EVERY, "the settings of each field"),
    "sage_core/corpus/readers/empathetic_dialogues.py": ("emotion", _LABEL),
    "sage_core/corpus/readers/esconv.py": ("emotion", "the fields of ESConv's situations"),
    "sage_core/emotions.py": ("emotion", "which emotions are pleasant"),
    "sage_core/evaluation/annotations.py": (
        "emotion topic", "emotions against VADER's sign, topics against the utterance's words",
    ),
    "sage_core/evaluation/answer.py": ("emotion", "the measure emotion_accuracy"),
    "sage_core/evaluation/benchmarks/__init__.py": ("emotion", "the parts of EmoBench"),
    "sage_core/evaluation/benchmarks/emotional.py": ("emotion", "the parts of EmoBench"),
    "sage_core/evaluation/collapse.py": (
        "motivation emotion", f"the entropy of actions is that of motivations; {_LABEL}",
    ),
    "sage_core/evaluation/empathy/claims.py": ("emotion", "a machine says that it has none"),
    "sage_core/evaluation/empathy/emotions.py": (
        "motivation emotion", "the user's emotion, read behind the motivation",
    ),
    "sage_core/evaluation/metrics.py": ("emotion", "emotion_accuracy: the guess and the label"),
    "sage_core/evaluation/measuring.py": ("emotion", "the guess and the label"),
    "sage_core/evaluation/quality.py": ("emotion", "the measures emotion_accuracy and _polarity"),
    "sage_core/evaluation/rows.py": ("emotion", _LABEL),
    "sage_core/labels.py": (
        "emotion topic", "emotions are compared with those of situations; topics are extracted",
    ),
    "sage_core/planning/counting.py": ("motivation emotion topic", "text of planned lengths"),
    "sage_core/planning/stages.py": ("motivation emotion topic", "text of planned lengths"),
    "sage_core/schema.py": ("emotion", _LABEL),
    "sage_core/search/selfplay.py": ("emotion", _LABEL),
    "sage_core/search/situations.py": ("emotion", _LABEL),
    "sage_core/states.py": (_EVERY, "the declaration"),
    "sage_core/steps/empathy.py": ("emotion", "which emotions a model finds"),
    "sage_core/templates/benchmarks.html.jinja": ("emotion", "which emotions a model finds"),
    "sage_core/templates/model_card.md.jinja": ("emotion", "the measure emotion_accuracy"),
    "sage_core/templates/report.html.jinja": (
        "emotion topic", "measures of emotions and topics; of the forced replies Table 3 is shown",
    ),
    "sage_core/topics.py": ("topic", "how topics are extracted"),
    "tasks/mlflow_views.py": ("emotion", "the measure emotion_accuracy"),
    "tasks/tracked_dialogues.py": ("emotion", _LABEL),
    "tasks/tracking.py": ("emotion", "the measure emotion_accuracy"),
}  # fmt: skip
# Not where it is an example of use, such as emotion=playful.
_NAMED = re.compile(
    rf"(?<![a-z])({'|'.join(field.name for field in FIELDS)})s?(?![a-z])(?!=\S)", re.IGNORECASE
)


def code(text: str) -> Iterator[str]:
    """The names and texts of a module, without comments, docstrings and modules imported."""
    tree = ast.parse(text)
    docstrings = {
        id(statement.value)
        for node in ast.walk(tree)
        if isinstance(body := getattr(node, "body", None), list)
        for statement in body
        if isinstance(statement, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docstrings:
                yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.arg | ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name


def named(path: Path) -> set[str]:
    """The fields that a file names."""
    text = path.read_text("utf-8")
    texts = code(text) if path.suffix == ".py" else [text]
    return {match[1].lower() for each in texts for match in _NAMED.finditer(each)}


def test_no_other_module_names_a_field() -> None:
    files = [
        path
        for package in ("sage_core", "tasks", "flows")
        for path in sorted((ROOT / package).rglob("*"))
        if path.suffix in (".py", ".jinja")
    ]
    found = {path.relative_to(ROOT).as_posix(): named(path) for path in files}
    assert found["sage_core/states.py"] == set(_EVERY.split())
    allowed = {name: set(names.split()) for name, (names, _) in ABOUT.items()}
    beside = {
        name: sorted(extra)
        for name, names in found.items()
        if (extra := names - allowed.get(name, set()))
    }
    assert beside == {}, "derive it from sage_core.states.FIELDS, or say in ABOUT why it is apart"


def test_the_scan_sees_names_in_code_only(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""Of emotion."""\n# emotion\nimport sage_core.topics\nHELP = "motivation=humor"\n'
    )
    assert named(path) == set()
    for line in (
        "KEYS = {'u_emotion': 1}", "x.emotion", "f(emotion=1)", "max_emotions = 1",
        "def sign_of_emotion(): ...", "f'{x}_emotion: {y}'", "EMOTION",
    ):  # fmt: skip
        path.write_text(f"{line}\n")
        assert named(path) == {"emotion"}, line
