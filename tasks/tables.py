"""Tables in the Prefect UI: the corpus funnel, the win rates and the models' figures; and a search
tree."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from sage_core.corpus.records import FUNNEL
from sage_core.search.tree_display import as_text
from sage_core.steps.reading import first_tree, read_figures, read_quality
from sage_core.storage import ArtifactRef, read_json
from tasks.home import store


def publish(
    corpora: Sequence[ArtifactRef],
    searched: Sequence[ArtifactRef],
    figures: ArtifactRef,
    quality: ArtifactRef,
) -> None:
    """Publish the tables, and the first tree of each round's search, for the flow run that is under
    way."""
    for number, ref in enumerate(searched):
        tree = first_tree(store().folder(ref))
        text = as_text(tree).replace("`", "'")  # it must not end the block
        create_markdown_artifact(
            key="sage-search-tree" + (f"-{number + 1}" if number else ""),
            markdown=f"```text\n{text}```",
            description="Chosen (>) and rejected branches of one search, with their votes.",
        )
    for number, corpus in enumerate(corpora):
        steps = read_json(store().folder(corpus) / FUNNEL)
        create_table_artifact(
            key="sage-corpus-funnel" + (f"-{number + 1}" if number else ""),
            table=[{name: step[name] for name in ("step", "kept", "dropped")} for step in steps],
            description="Dialogues kept and dropped by each rule.",
        )
    win_rates, _ = read_figures(store().folder(figures))
    create_table_artifact(
        key="sage-win-rates",
        table=rounded(win_rates["pairs"]),
        description="Items won by either model of a pair in both orders of judging.",
    )

    create_table_artifact(
        key="sage-quality",
        table=rounded(
            {"model": each.model} | {name: f.value for name, f in each.figures.items()}
            for each in read_quality(store().folder(quality)).models
        ),
        description="What the held-out conversations of each model say without a judge.",
    )


def rounded(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a table, with four decimals."""
    return [
        {name: round(cell, 4) if isinstance(cell, float) else cell for name, cell in row.items()}
        for row in rows
    ]
