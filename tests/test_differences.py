"""Which settings differ, and what a run is called for it."""

import pytest

from sage_core.config.differences import differences, run_name
from sage_core.config.loading import load_config


def test_the_same_settings_do_not_differ() -> None:
    assert differences([load_config("demo"), load_config("demo")]) == []
    assert run_name(load_config("demo")) == "demo"
    assert run_name(load_config("paper")) == "paper"


def test_each_setting_that_differs_has_its_value_in_each_run() -> None:
    configs = [
        load_config("demo", [f"seed={seed}", f"search.selector.relevance={flag}"])
        for seed, flag in ((0, "true"), (1, "true"), (1, "false"))
    ]
    found = {each.key: each.values for each in differences(configs)}
    assert found == {
        "seed": ("0", "1", "1"),  # 1 is not "true"
        "search.selector.relevance": ("true", "true", "false"),
    }


def test_settings_that_cannot_change_a_result_are_marked_and_in_no_name() -> None:
    changed = load_config("demo", ["model.batch_size=3", "seed=7"])
    found = {each.key: each.runtime for each in differences([load_config("demo"), changed])}
    assert found == {"seed": False, "model.batch_size": True}
    assert run_name(changed) == "demo: seed=7"


def test_settings_in_lists_of_sections_are_compared_one_by_one() -> None:
    judge = "{{name: {}, engine: {{kind: openai, model: gpt}}}}"
    one, other = (
        load_config("demo", [f"evaluation.judges=[{judge.format(name)}]"]) for name in "ab"
    )
    assert [each.key for each in differences([one, other])] == ["evaluation.judges[0].name"]
    two = load_config("demo", [f"evaluation.judges=[{judge.format('a')}, {judge.format('b')}]"])
    added = {each.key: each.values for each in differences([one, two])}
    assert added["evaluation.judges[1].name"] == ("", "b")


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=1", "search.candidates=9"], "demo: seed=1, search.candidates=9"),
        (
            ["seed=1", "search.candidates=9", "refine.rounds=4", "lora.rank=4", "sft.epochs=9"],
            "demo: seed=1, lora.rank=4, sft.epochs=9.0, 2 more",
        ),
        (["name=mine", "seed=3"], "demo: seed=3"),
    ],
)
def test_a_run_is_called_for_what_differs(overrides: list[str], name: str) -> None:
    assert run_name(load_config("demo", overrides)) == name
