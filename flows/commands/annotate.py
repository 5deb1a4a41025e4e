"""``sage annotate``: the states of dialogues."""

from flows.commands.home import locked_home
from flows.commands.options import Input, InSplit, Output, Overrides, Preset, Wait, WhichSplit
from flows.commands.output import print_answers, print_path


def annotate(
    input_path: Input,
    output: Output,
    split: InSplit = WhichSplit.train,
    preset: Preset = "demo",
    overrides: Overrides = None,
    wait: Wait = True,
) -> None:
    """Annotate dialogues.parquet with states; writes sac.parquet."""
    with locked_home(preset, overrides, wait) as config:
        from flows.commands import single_stages

        print_path(single_stages.annotate(config, input_path, output, split))
        print_answers(output)
