"""Judges' prompts in MLflow's prompt registry, over a SQLite database that MLflow made."""

import json
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from flows.judges import judges, pinned
from sage_core.config.loading import load_config
from sage_core.config.pipeline import PipelineConfig
from sage_core.errors import ConfigError
from sage_core.evaluation.judge import question
from sage_core.steps import configured
from sage_core.steps.base import Model
from sage_core.steps.key import key
from sage_core.storage import ArtifactRef
from tasks import prompts, registry, tracking, tracking_store
from tasks.home import held

KIND = "Decide which chatbot is kinder."
CURT = "Decide which chatbot is shorter."


@pytest.fixture
def client(
    made_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> mlflow.MlflowClient:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SAGE_HOME", str(tmp_path))
    (tmp_path / "mlflow.db").write_bytes(made_database.read_bytes())
    mlflow.set_tracking_uri(tracking_store.tracking_uri())
    return mlflow.MlflowClient()


@pytest.fixture
def kept(client: mlflow.MlflowClient) -> mlflow.MlflowClient:
    """A person's prompt with two versions, the first of which is the best."""
    client.create_prompt("warmth")
    for text in (KIND, CURT):
        client.create_prompt_version("warmth", text)
    client.set_prompt_alias("warmth", "best", 1)
    return client


def config(*asked: str) -> PipelineConfig:
    named = ", ".join(f"{{name: j{n}, prompt: '{each}'}}" for n, each in enumerate(asked))
    return load_config("tiny", [f"evaluation.judges=[{named}]"])


def versions(client: mlflow.MlflowClient, name: str) -> list[str]:
    """The texts of all versions, the first one first."""
    found = client.search_prompt_versions(name)
    return [each.template for each in sorted(found, key=lambda each: each.version)]


def verdicts_key(settings: PipelineConfig) -> str:
    ref = ArtifactRef("x", "0" * 64, 1)
    (judge,) = judges(settings)
    m0 = Model("m0", ref)
    return key(configured.judge_pair(settings, judge, ("a", "b"), {"a": ref, "b": ref}, m0))


def test_a_prompt_has_one_version_for_each_text(client: mlflow.MlflowClient) -> None:
    texts = (KIND, KIND, CURT, KIND)
    found = [prompts.kept("my_judges.warm:KIND", text) for text in texts]
    assert [each and each.version for each in found] == [1, 1, 2, 1]
    name = "sage-judge.my_judges.warm.KIND"
    assert versions(client, name) == [KIND, CURT]
    assert prompts.text(f"prompts:/{name}/2") == CURT
    assert registry.registered_models() == []  # prompts are no models


def test_more_versions_than_a_page_are_looked_through(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompts, "_PAGE", 2)
    texts = [f"Which is better? {n}" for n in range(5)]
    assert [prompts.kept("open", text).version for text in texts] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]
    assert [prompts.kept("open", text).version for text in texts] == [1, 2, 3, 4, 5]  # type: ignore[union-attr]


def test_a_prompt_is_taken_from_the_registry(kept: mlflow.MlflowClient) -> None:
    settings = config("prompts:/warmth/2", "prompts:/warmth@best", "open")
    assert [each.question for each in judges(settings)] == [CURT, KIND, question("open")]
    fixed = pinned(settings)
    assert [each.prompt for each in fixed.evaluation.judges] == [
        "prompts:/warmth/2", "prompts:/warmth/1", "open",
    ]  # fmt: skip
    kept.set_prompt_alias("warmth", "best", 2)
    assert judges(fixed)[1].question == KIND  # the run goes on with what it started with
    assert judges(settings)[1].question == CURT
    assert pinned(config("open", "companion")) == config("open", "companion")


def test_the_text_is_part_of_the_key(kept: mlflow.MlflowClient) -> None:
    settings = config("prompts:/warmth@best")
    before = verdicts_key(settings)
    assert verdicts_key(settings) == before
    kept.set_prompt_alias("warmth", "best", 2)
    assert verdicts_key(settings) != before


def text_as_chat(client: mlflow.MlflowClient) -> None:
    client.create_prompt("bad")
    client.create_prompt_version("bad", [{"role": "system", "content": KIND}])


def with_a_variable(client: mlflow.MlflowClient) -> None:
    client.create_prompt("bad")
    client.create_prompt_version("bad", "Which is better: {{a}} or {{b}}?")


def a_model(client: mlflow.MlflowClient) -> None:
    client.create_registered_model("bad")


@pytest.mark.parametrize(
    ("make", "named", "problem"),
    [
        (lambda client: None, "prompts:/bad/1", "is not in MLflow at sqlite"),
        (lambda client: None, "prompts:/bad@best", "is not in MLflow at sqlite"),
        (a_model, "prompts:/bad/1", "is not in MLflow at sqlite"),
        (text_as_chat, "prompts:/bad/1", "is not a plain text"),
        (text_as_chat, "prompts:/bad/2", "is not in MLflow at sqlite"),
        (with_a_variable, "prompts:/bad/1", r"has variables \(a, b\), which nothing fills"),
    ],
)
def test_what_cannot_be_asked_is_an_error_before_any_work(
    client: mlflow.MlflowClient,
    make: Callable[[mlflow.MlflowClient], None],
    named: str,
    problem: str,
) -> None:
    make(client)
    for look_up in (pinned, judges):
        with pytest.raises(ConfigError, match=problem) as error:
            look_up(config(named))
        assert f"evaluation.judges.prompt: the judge prompt '{named}'" in str(error.value)
        assert "prompts:/name@alias" in str(error.value)


@pytest.mark.parametrize("wrong", ["prompts:/warmth", "prompts:/warmth/0", "prompts:/a b/1"])
def test_what_is_no_address_of_a_prompt_is_a_wrong_setting(wrong: str) -> None:
    with pytest.raises(ConfigError, match="prompts:/name/version"):
        config(wrong)


def test_a_run_names_the_version_of_each_prompt(kept: mlflow.MlflowClient) -> None:
    settings = pinned(config("open", "prompts:/warmth@best"))
    with held():
        first = tracking.Tracker(settings)
        first.judges(prompts.registered(judges(settings)))
        first.finish("FINISHED")
        second = tracking.Tracker(settings)
        second.judges(prompts.registered(judges(settings)))
    assert first.run_id != second.run_id
    for run in (first.run_id, second.run_id):
        tags = kept.get_run(run).data.tags
        assert tags["sage.judge.j0.prompt"] == "prompts:/sage-judge.open/1"
        assert tags["sage.judge.j1.prompt"] == "prompts:/warmth/1"
        linked = json.loads(tags["mlflow.linkedPrompts"])  # what the run's page shows
        assert [(each["name"], each["version"]) for each in linked] == [
            ("sage-judge.open", "1"), ("warmth", "1"),
        ]  # fmt: skip
    assert versions(kept, "sage-judge.open") == [question("open")]  # the second run added none
    assert versions(kept, "warmth") == [KIND, CURT]


def test_a_store_that_takes_no_prompts_costs_a_warning(
    client: mlflow.MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise MlflowException("no prompts here")

    monkeypatch.setattr(mlflow.MlflowClient, "create_prompt", refused)
    with pytest.warns(UserWarning, match="did not keep the judge prompt 'open': no prompts here"):
        assert prompts.registered(judges(config("open"))) == {}
