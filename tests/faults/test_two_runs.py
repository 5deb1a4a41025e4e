"""A run of a deployment and one of the command line over one home."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from deployed import Served, call, finished, processes_of, wait_for
from small_run import Unkilled, hashes, manifests, started

pytestmark = pytest.mark.faults
TINY = "sage-pipeline/tiny"


def test_a_deployment_and_the_command_line_at_once(
    served: Served,
    settings: list[str],
    filled_in: dict[str, Any],
    unkilled: Unkilled,
    fresh: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Over the home without artefacts, then, with another seed, over the used one."""
    waited = at_once(served, settings, filled_in)
    assert hashes(fresh) == unkilled.hashes
    before = len(unkilled.hashes)
    other = {**filled_in, "advanced": {**filled_in["advanced"], "seed": 1}}
    waited += at_once(served, [*settings, "seed=1"], other)
    assert len(manifests(fresh)) > before
    record_property(
        "fault",
        [
            "a deployment and the command line, fresh and used home",
            2,
            f"both went through, {' and then '.join(waited)} waited; each artefact made once",
        ],
    )


def at_once(served: Served, settings: list[str], form: dict[str, Any]) -> list[str]:
    """Run both; every artefact has to be made by one of them only. Gives who waited."""
    run = served.start(TINY, form)
    wait_for(lambda: processes_of(run), 300)
    with started(served.home, settings) as lines:
        said = [*lines]
    assert said[-1] == "0", "".join(said[-40:])
    finished(served.api, run, served.home)
    logs = [
        each["message"]
        for each in call(
            f"{served.api}/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        )
    ]
    made = [line.split(" made ")[1].split("  ")[0].strip() for line in said if " made " in line]
    deployed = [text.split()[1:] for text in logs if text.startswith("made ")]
    assert not (made and deployed), (made, deployed)
    assert made or deployed
    waiting = [any("is in use by" in text for text in texts) for texts in (said, logs)]
    assert sum(waiting) == 1, waiting
    return ["the command line" if waiting[0] else "the deployment"]
