"""``sage run``: the whole pipeline."""

from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import AsJson, Overrides, Preset, Wait
from flows.commands.output import out, print_json, print_tally
from flows.runners import Runner

if TYPE_CHECKING:
    from flows.commands.pipeline_run import RunResult


def run(
    preset: Preset = "demo",
    overrides: Overrides = None,
    runner: Annotated[
        Runner, typer.Option(help="Where stages run that can run side by side.")
    ] = Runner.threads,
    verbose: Annotated[bool, typer.Option(help="Show Prefect's log.")] = False,
    wait: Wait = True,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline: corpus, states, m0 to dpo, judging, report."""
    from flows import environment
    from sage_core.config.loading import load_config
    from sage_core.preflight import check
    from tasks import home

    config = load_config(preset, overrides or ())
    check(config)  # the flow does too, but only once a server runs
    with home.held(wait=wait):
        environment.prepare(quiet=not verbose)
        environment.stop_orphaned_servers()
        environment.check_prefect_database()

        from flows.commands.pipeline_run import run_pipeline
        from flows.judges import pinned

        config = pinned(config)  # likewise, of prompts that MLflow does not have
        result = run_pipeline(config, runner)
    print_tally(result.answers)
    if as_json:
        print_json(result.as_dict())
    else:
        _show(result)


def _show(result: "RunResult") -> None:
    from flows.commands.tables import benchmark_table, model_table, quality_table, win_rate_table

    out.print(model_table(result.models))
    out.print(quality_table(result.quality))
    out.print(win_rate_table(result.win_rates["pairs"]))
    if (design := result.design).left_out:
        out.print(design.in_words, highlight=False)
    if (benchmarks := result.benchmarks) is not None:
        if benchmarks["tasks"]:
            out.print(benchmark_table(benchmarks))
        if left_out := ", ".join(benchmarks["left_out"]):
            out.print(f"benchmarks left out, see the report: {left_out}", highlight=False)
    for judge, rate in result.win_rates["position_bias"].items():
        if rate["n"]:
            out.print(
                f"judge {judge} named the conversation shown first in {rate['value']:.0%} of "
                f"{rate['n']} verdicts [{rate['ci_low']:.0%}, {rate['ci_high']:.0%}]; "
                "an unbiased judge: 50%"
            )
    counts = f"{len(result.made)} stages made, {len(result.cached)} from the cache"
    out.print(f"{counts}, {result.seconds:.0f} s")
    out.print(f"report: {result.report}", soft_wrap=True, highlight=False)
    out.print("the run in Prefect and MLflow: sage ui")
