"""A month of weekly retraining in a scripted home."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from scripted_home import arrive, config, scripted

from flows import approval, form, retraining
from flows.approval import Approval
from sage_core.errors import ConfigError, DataError
from tasks import checkpoints, garbage
from tasks.registry import CANDIDATE, Registry, Version


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    home = tmp_path_factory.mktemp("home")
    with scripted(home):
        yield home


def test_without_a_champion_it_says_how_to_make_one(home: Path) -> None:
    with pytest.raises(ConfigError, match="`sage promote dpo`"):
        retraining.retrain()


def test_a_month(home: Path) -> None:
    registry = Registry()
    first = registry.find("dpo")
    registry.promote(first, "by hand")

    # Week 1: nothing new. No model is trained, and no error rate is spent.
    before = artefacts(home, "sft", "dpo")
    assert retraining.retrain() == {"outcome": "nothing new", "champion": str(first)}
    assert artefacts(home, "sft", "dpo") == before
    assert registry.decisions() == []

    # Week 2: new dialogues that make the model better.
    arrive(home, 2, "sunny")
    second = retraining.retrain()
    assert second["outcome"] == "promoted", second
    assert registry.champion().version == second["challenger"] != first.version
    second_version = registry.champion()
    assert (second["new_dialogues"], second["replayed_dialogues"]) == (4, 4)
    assert second["champion"] == first.version
    found = checkpoints.find("champion", config(home).model)
    assert found.adapter == checkpoints.by_hash(second["challenger_sha256"])
    assert found.states

    # Week 3: a bad batch. It is refused, and says why.
    arrive(home, 3, "foul")
    third = retraining.retrain()
    assert third["outcome"] == "refused"
    assert registry.champion().version == second["challenger"]
    (reason,) = third["reasons"]
    assert reason.startswith("win rate, judge m0: interval [-1.00, ")
    assert third["error_rate"] == pytest.approx(second["error_rate"] / 4)
    # It replays what the champion was trained on, the second week included.
    assert third["replayed_dialogues"] == 4

    # Each round has situations and a seed of its own.
    for half in ("search_situations", "held_out_situations"):
        assert not {*second[half]} & {*third[half]}
    assert second["seed"] != third["seed"]

    # Week 4: nothing new, since what was refused is not new again.
    assert retraining.retrain()["outcome"] == "nothing new"
    assert registry.decisions() == [second, third]

    # The decisions are in MLflow with every input.
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("weekly").experiment_id
    runs = client.search_runs([experiment], "tags.`sage.round` = '2'")
    assert [run.data.tags["sage.decision"] for run in runs] == ["refused"]
    table = client.load_table(experiment, "checks.json", [runs[0].info.run_id])
    assert table["check"].iloc[0] == "win rate, judge m0"

    # One roll-back, and no more: there was no champion before the first.
    back, withdrawn = registry.rollback()
    assert (back.version, withdrawn.version) == (first.version, second["challenger"])
    assert registry.champion() == first
    with pytest.raises(ConfigError, match="nothing can be taken back"):
        registry.rollback()

    # A person may have the last word.
    arrive(home, 5, "sunny and warm")
    fifth = retraining.retrain(overrides=["retrain.approval=true"])
    assert fifth["outcome"] == "waiting for approval"
    assert registry.champion() == first
    a_person_answers(registry, fifth, first, registry.find("m1"))
    assert registry.champion().version == fifth["challenger"]
    with pytest.raises(ConfigError, match="'candidate' is not a version or alias"):
        registry.find(CANDIDATE)

    # All but four of the 64 held-out situations are used. That is said before anything is trained.
    arrive(home, 6, "sunny again")
    before = artefacts(home, "sft", "dpo")
    with pytest.raises(DataError, match=r"needs at least 10 .* gets 4"):
        retraining.retrain()
    assert artefacts(home, "sft", "dpo") == before

    # Benchmarks that both have count, and of these the score alone.
    for version, score in ((first, 0.5), (second_version, 0.4)):
        for name in ("benchmark.arc_easy", "benchmark.arc_easy.stderr"):
            client.log_metric(version.run_id, name, score)
    client.log_metric(first.run_id, "benchmark.piqa", 0.7)
    assert registry.benchmarks(first, second_version) == {"arc_easy": (0.5, 0.4)}

    # A form cannot lead out of the data folder; the champion's own paths are its owner's.
    with pytest.raises(ConfigError, match=r"situations.path = /etc/hosts"):
        retraining.retrain(overrides=["situations.path=/etc/hosts"], confine=form.confined)


def a_person_answers(
    registry: Registry, waiting: dict[str, Any], champion: Version, other: Version
) -> None:
    """Every way in which a round that waits can end, the last one with its challenger promoted."""
    candidate = registry.find(CANDIDATE)
    yes, no = (Approval(promote=each, reason="It sulks.") for each in (True, False))
    assert "| win rate, judge m0 |" in approval.question(waiting)

    refused = approval.conclude(registry, waiting, no)
    assert refused["outcome"] == "refused by a person"
    assert refused["reasons"] == ["a person: refused by a person, It sulks."]
    assert refused["checks"][:-1] == waiting["checks"]
    assert registry.decisions()[-1] == refused
    assert registry.champion() == champion
    with pytest.raises(ConfigError, match="'candidate' is not a version or alias"):
        registry.find(CANDIDATE)
    assert approval.conclude(registry, refused, yes) == refused  # which is decided

    # The gate has compared it with another champion than the one that there is by now.
    registry.offer(candidate)
    registry.promote(other, "by hand")
    assert approval.conclude(registry, waiting, yes)["outcome"] == "overtaken"
    assert registry.champion() == other
    registry.rollback()

    # Nobody answers: until the deadline it waits, and the next round records that it is over.
    registry.offer(candidate)
    approval.close(registry, [waiting])
    assert registry.find(CANDIDATE) == candidate
    approval.close(registry, [{**waiting, "waits_until": "2026-01-05T03:00:00+00:00"}])
    late = registry.decisions()[-1]
    assert late["outcome"] == "not approved in time"
    assert late["reasons"] == [
        "a person: not approved in time, no answer until 2026-01-05T03:00:00+00:00"
    ]
    with pytest.raises(ConfigError, match="'candidate' is not a version or alias"):
        registry.find(CANDIDATE)
    assert registry.champion() == champion

    registry.offer(candidate)
    approved = approval.conclude(registry, waiting, yes)
    assert (approved["outcome"], approved["reasons"]) == ("promoted", [])
    assert approved["checks"][-1]["passed"]
    assert registry.champion() == candidate

    # Or `sage promote` has, meanwhile.
    approval.close(registry, [waiting])
    assert registry.decisions()[-1]["checks"][-1]["value"] == "sage promote"
    assert registry.decisions()[-1]["outcome"] == "promoted"


def test_garbage(home: Path) -> None:
    """After the month: registered models and all that they were made from stay."""
    kill_minus_nine = home / "artifacts" / "sft" / ".0123.abcdef"
    kill_minus_nine.mkdir()
    (kill_minus_nine / "model").write_bytes(b"x" * 1000)
    recent = {each.path for each in garbage.find(days=1)}
    assert recent == {kill_minus_nine}
    found = garbage.find(days=0)
    assert kill_minus_nine in {each.path for each in found}
    for each in found:
        garbage.remove(each)
    assert garbage.find(days=0) == []
    stages = {path.parent.name for path in (home / "artifacts").glob("*/*")}
    assert {"base-model", "sft", "dpo", "corpus", "training-dialogues"} <= stages
    assert "rollout-shard" not in stages
    champion = Registry().champion()
    assert retraining.find_champion(champion).dialogues


def artefacts(home: Path, *stages: str) -> list[Path]:
    return [path for stage in stages for path in sorted((home / "artifacts" / stage).iterdir())]
