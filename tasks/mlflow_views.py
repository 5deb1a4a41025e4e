"""The views of an experiment that MLflow keeps with it: charts by iteration, and a table by model.

MLflow's page stores a view that somebody shares as a tag of the experiment, in JSON, and shows it
under an address that names the tag. These views are such tags, and the experiment's description
links to them. The fields are those of MLflow 3.17's page; a page of another version shows its
default view instead.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TAG = "mlflow.sharedViewState."
_CHARTS, _TABLE = "sage-charts", "sage-models"
_SECTION = "sage"
_NOTE = "mlflow.note.content"
_NOTE_BEGINS = "[Charts by iteration]"
SOURCE_TAG = "mlflow.source.name"
"""The tag of a model's run with the name of its pipeline run: MLflow's page shows it as *Source*,
before the metrics, where tags of other names come behind them."""
CHARTED = (
    "reply_words",
    "question_rate",
    "situation_recovery",
    "situation_recovery_embedding",
    "loglik_m0",
    "distinct_2",
    "emotion_accuracy",
    "cut_share",
)
"""Metrics of the charts and of the table, as :class:`tasks.tracking.Tracker` names them."""


def experiment_tags(
    experiment: str, judges: Sequence[str], there: Mapping[str, str]
) -> dict[str, str]:
    """The tags that keep the views with an experiment.

    Args:
        experiment: its id.
        judges: whose win rates are columns of the table.
        there: the tags that it has. A description that somebody wrote stays.
    """
    page = f"#/experiments/{experiment}"
    note = (
        f"{_NOTE_BEGINS}({page}/runs?viewStateShareKey={_CHARTS}&compareRunsMode=CHART): "
        "m0 and raw are step 0, m1 is 1, m2 is 2, and so on. "
        f"[Table by model]({page}/runs?viewStateShareKey={_TABLE}): one run for each model. "
        f"[Sample dialogues]({page}/traces): read, filter and annotate them; as rows under "
        f"[Datasets]({page}/datasets). Each pipeline run has the report among its artefacts."
    )
    own = not there.get(_NOTE) or there[_NOTE].startswith(_NOTE_BEGINS)
    return {
        **({_NOTE: note} if own else {}),
        f"{_TAG}{_CHARTS}": json.dumps(_charts()),
        f"{_TAG}{_TABLE}": json.dumps(_table(judges)),
    }


def _charts() -> dict[str, Any]:
    """A line over the iterations for each metric, one line for each pipeline run."""
    return {
        "searchFilter": "tags.`sage.home` LIKE '%'",
        "compareRunSections": [
            {"uuid": _SECTION, "name": "By iteration", "display": True, "isReordered": False}
        ],
        "compareRunCharts": [
            {
                "uuid": f"{_SECTION}-{name}",
                "type": "LINE",
                "metricSectionId": _SECTION,
                "metricKey": name,
                "selectedMetricKeys": [name],
                "xAxisKey": "step",
                "yAxisKey": "metric",
                "yAxisExpressions": [],
                "scaleType": "linear",
                "xAxisScaleType": "linear",
                "selectedXAxisMetricKey": "",
                "lineSmoothness": 0,
                "displayPoints": True,
                "range": {},
                "deleted": False,
                "isGenerated": False,
            }
            for name in CHARTED
        ],
    }


def _table(judges: Sequence[str]) -> dict[str, Any]:
    """The models' runs: the pipeline run that each is of, and the metrics as columns."""
    rates = [f"win_rate.{judge}.vs_m1" for judge in judges]
    return {
        "searchFilter": "tags.`sage.model` LIKE '%'",
        "orderByKey": "attributes.run_name",  # by start, MLflow folds them under their parent
        "orderByAsc": True,
        "selectedColumns": [
            "attributes.`Source`",
            *(f"metrics.`{name}`" for name in (*CHARTED, *rates)),
        ],
    }
