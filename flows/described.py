"""What Prefect's UI shows of a flow run: its name and tags, its outcome, links to MLflow and the
report."""

import json
import os
from collections.abc import Mapping
from itertools import zip_longest
from textwrap import wrap
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import create_link_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext

from flows.environment import UI_FILE
from sage_core.config.differences import from_preset
from sage_core.config.pipeline import PipelineConfig
from tasks import tables
from tasks.home import sage_home

_CELLS = ("check", "champion", "challenger", "value", "needed")
_CELL_WIDTH = 24  # characters; with it the whole table is in sight in a window of 1,300 pixels


def tags(config: PipelineConfig) -> list[str]:
    """The preset, the base model, the seed, and every setting that differs from the preset."""
    preset, changed = from_preset(config)
    facts = [f"preset:{preset}", f"base:{config.model.base}", f"seed:{config.seed}"]
    return [*facts, *(each for each in changed if not each.startswith("seed="))]


def name_run(name: str, labels: list[str]) -> None:
    """Give the flow run that is under way a name and more tags, in place of earlier ones of the
    same kinds, the part before a colon."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(context.flow_run.id)
        kinds = {label.partition(":")[0] for label in labels if ":" in label}
        kept = {tag for tag in run.tags if tag.partition(":")[0] not in kinds}
        client.update_flow_run(run.id, name=name, tags=sorted({*kept, *labels}))


def link_mlflow(experiment: str, run: str, *, report: bool = False) -> None:
    """A link to the run in MLflow, and one to its report, where a MLflow server is known."""
    server = _mlflow_server()
    if server is None:
        get_run_logger().info("MLflow run %s; `sage ui` shows it", run)
        return
    page = f"{server}/#/experiments/{experiment}/runs/{run}"
    links = [("sage-mlflow-run", page, "The run in MLflow: models, figures, tables")]
    if report:
        links.append(("sage-report", f"{page}/artifacts/report.html", "The report"))
    for key, link, text in links:
        create_link_artifact(key=key, link=link, link_text=text)


def outcome(record: Mapping[str, Any]) -> None:
    """Show what became of a round of retraining: the decision with all its inputs."""
    logger = get_run_logger()
    if "round" not in record:
        logger.info("nothing new since %s; no model was trained", record["champion"])
        name_run(f"retrain · {record['outcome']}", [f"outcome:{record['outcome']}"])
        return
    name_run(
        f"round {record['round']} · {record['outcome']}",
        [f"outcome:{record['outcome']}", f"challenger:{record['challenger']}"],
    )
    create_table_artifact(
        key="sage-decision",
        table=decision_table(record),
        description=f"Round {record['round']}: {record['outcome']}. "
        + "; ".join(record["reasons"]),
    )
    logger.info("round %s: %s. %s", record["round"], record["outcome"], record["reasons"] or "")


def refined(record: Mapping[str, Any]) -> None:
    """Show what became of a version that was to be refined."""
    words = f"refine version {record['refined']} · {record['outcome']}"
    if "candidate" in record:
        words += f" {record['candidate']}"
    name_run(words, [f"outcome:{record['outcome']}"])
    get_run_logger().info("%s: %s new dialogues", words, record["new_dialogues"])


def evaluated(record: Mapping[str, Any]) -> None:
    """Show how two models compare, and link to the run in MLflow."""
    a, b = record["models"]
    name_run(f"{b} against {a}", [f"model:{version}" for version in record["models"].values()])
    link_mlflow(record["experiment"], record["run"])
    about = "; ".join(f"{model} is {version}" for model, version in record["models"].items())
    create_table_artifact(
        key="sage-win-rates",
        table=win_rate_table(record),
        description=f"Items won in both orders of judging; difference: the share that {b} wins "
        f"less the share that {a} wins, with its 95% interval. {about}.",
    )
    create_table_artifact(
        key="sage-measures",
        table=tables.rounded(record["measures"]),
        description=f"Without a judge; difference: {b} less {a}, on the same situations.",
    )


def win_rate_table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What each judge says, in as many columns as a page of Prefect shows; MLflow has all."""
    a, b = record["models"]
    return tables.rounded(
        {
            "judge": row["judge"],
            f"{a} wins": row["wins_a"],
            "ties": row["ties"],
            f"{b} wins": row["wins_b"],
            "unread": row["unparsed"],
            "difference": row["difference"],
            "from": row["ci_low"],
            "to": row["ci_high"],
            "p (Holm)": row["p_holm"],
        }
        for row in record["win_rates"]
    )


def benchmarked(found: Mapping[str, Any]) -> None:
    """Show the benchmarks of two models, and the change from the first to the second."""
    name_run(f"benchmarks of {found['models'][-1]}", [])
    changes = {(each["task"], each["metric"]): each for each in found["changes"]}
    shown = {each["task"]: each["shown"] for each in found["tasks"]}
    rows = []
    for score in found["scores"]:
        row = {key: score[key] for key in ("model", "task", "metric", "value", "stderr", "n")}
        change = changes.get((score["task"], score["metric"]), {})
        if score["model"] == found["baseline"] or score["metric"] != shown[score["task"]]:
            change = {}
        rows.append({**row, "change": change.get("relative"), "p (Holm)": change.get("p_holm")})
    create_table_artifact(
        key="sage-benchmarks",
        table=tables.rounded(rows),
        description=f"By lm-eval; change: relative to {found['baseline']}.",
    )


def decision_table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The checks and inputs of a decision, as rows for a page of Prefect, which breaks no lines:
    long cells go on in the next row."""
    facts = ("champion", "challenger", "new_dialogues", "replayed_dialogues", "seed")
    return [
        *(row for check in record["checks"] for row in _check_rows(check)),
        *(_input(fact.replace("_", " "), record[fact]) for fact in facts),
        _input("held-out situations", len(record["held_out_situations"])),
        _input("error rate", f"{record['error_rate']:.3g}"),
        # Whole ones push the columns behind them off the page; MLflow has them.
        *(_input(f"{model} sha256", record[f"{model}_sha256"][:12])
          for model in ("champion", "challenger")),
    ]  # fmt: skip


def _check_rows(check: Mapping[str, Any]) -> list[dict[str, Any]]:
    # Prefect reads cells as Markdown, in which "-" is a list.
    texts = ["" if check[name] == "-" else str(check[name]) for name in _CELLS]
    lines = zip_longest(*(wrap(text, _CELL_WIDTH) for text in texts), fillvalue="")
    rows = [dict(zip(_CELLS, line, strict=True)) for line in lines]
    return [
        {"check": row["check"], "passed": None if number else check["passed"], **row}
        for number, row in enumerate(rows)
    ]


def corpus_version(version: Mapping[str, Any]) -> None:
    """Show which version of a corpus a run has registered or found."""
    words = f"corpus {version['version']} · {'new' if version['new'] else 'known'}"
    name_run(words, [f"model:{version['registered']}"])
    get_run_logger().info("%s: %s dialogues", words, version["dialogues"])


def _input(name: str, value: Any) -> dict[str, Any]:
    empty = {"passed": None, "champion": "", "challenger": ""}
    return {"check": name, **empty, "value": str(value), "needed": ""}


def _mlflow_server() -> str | None:
    """The address of MLflow's pages: the tracking server's, or that of `sage ui`."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith("http"):
        return uri.rstrip("/")
    try:
        return str(json.loads((sage_home() / UI_FILE).read_text())["mlflow"])
    except (OSError, ValueError, KeyError):
        return None
