"""`irgpt train`: what a training will need, and the training itself."""

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from irgpt_lib.cli.telling import Json, show, told_errors

if TYPE_CHECKING:
    from irgpt_lib.training.planning import Plan, StagePlan

app = typer.Typer(help="Training: what it will need, and both stages of a run.", no_args_is_help=True)
GIB = 2**30


@app.callback()
def train() -> None:
    """Training: what it will need, and both stages of a run."""


@app.command("plan")
def plan(
    profile: Annotated[str, typer.Option(help="The profile of params.yaml; else the current one.")] = "",
    variant: Annotated[str, typer.Option(help="A variant of params.yaml; else the paper's method.")] = "",
    gpus: Annotated[int, typer.Option(help="How many GPUs.")] = 1,
    gpu_memory: Annotated[float, typer.Option(help="Memory of one GPU in GiB.")] = 80.0,
    rate: Annotated[
        list[float] | None,
        typer.Option(help="Measured samples a second of one GPU; twice where stage 2 has another rate."),
    ] = None,
    tflops: Annotated[float, typer.Option(help="A GPU's peak of matrix products in TFLOP/s; goes with --mfu.")] = 0.0,
    mfu: Annotated[float, typer.Option(help="The share of --tflops that training reaches, 0-1.")] = 0.0,
    model: Annotated[str, typer.Option(help="Another model: a published name or hub id, or a local folder.")] = "",
    samples: Annotated[int | None, typer.Option(help="Samples of stage 1 in one epoch.")] = None,
    questions: Annotated[int | None, typer.Option(help="Questions of stage 2 in one epoch.")] = None,
    tiles: Annotated[
        int | None, typer.Option(help="Tiles an image (InternVL); else what model.max_tiles makes of a frame.")
    ] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Tokens of a prompt without its image.")] = None,
    answer_tokens: Annotated[int | None, typer.Option(help="Tokens of an answer, on average.")] = None,
    padding_tokens: Annotated[int | None, typer.Option(help="Padding of a sample in a batch, on average.")] = None,
    micro: Annotated[
        int | None,
        typer.Option(help="Samples a GPU passes at a time (0: its share of a batch); else train.micro."),
    ] = None,
    frozen_weights: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Type in which frozen weights are held; the loop holds fp32.")
    ] = "fp32",
    as_json: Json = False,
) -> None:
    """Memory of a GPU by part, steps, hours and disk of both stages. Nothing is downloaded and no GPU is needed.

    Memory and FLOPs are counted on one step of the real model without its data.
    """
    from irgpt_lib.params import ParamsError
    from irgpt_lib.training import planning

    with told_errors():
        try:
            rates = rate or []
            if len(rates) > 2:
                raise planning.Unplannable(f"{len(rates)} rates: one for both stages, or one for each")
            speed = planning.Speed((rates[0], rates[-1]) if rates else None, tflops, mfu)
            made = planning.plan(
                profile,
                planning.Machine(gpus, gpu_memory, micro, frozen_weights),
                speed,
                variant=variant,
                model=model,
                samples=(samples, questions),
                tiles=tiles,
                texts=(prompt_tokens, answer_tokens, padding_tokens),
                told=lambda line: typer.echo(line, err=True),
            )
        except (planning.Unplannable, ParamsError) as error:
            raise typer.BadParameter(str(error)) from error
        show(made.record(), lines(made), as_json)


@app.command(
    "run",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True, "help_option_names": []},
)
def run(words: Annotated[list[str] | None, typer.Argument(metavar="OPTIONS")] = None) -> None:
    """Train both stages of one run on the GPUs of this machine, or print a script for SLURM; --help lists the options.

    They are those of `python -m irgpt_lib.training.launch`; what is not given is as params.yaml says, so that notebook
    05 finds its own run here.
    """
    from irgpt_lib.params import ParamsError
    from irgpt_lib.training import launch

    with told_errors():
        try:
            given = as_params_say(words or [])
        except ParamsError as error:
            typer.echo(f"irgpt: {error}", err=True)
            raise typer.Exit(2) from error
        raise typer.Exit(launch.main(*given))


def as_params_say(words: list[str]) -> list[str]:
    """The words behind the options that the section `train` states for their profile and variant; of two equal options
    the later one counts.

    Raises:
        ParamsError: there is no such profile or variant.
    """
    from irgpt_lib import params

    named = ArgumentParser(add_help=False, allow_abbrev=False)
    named.add_argument("--variant", default="")
    named.add_argument("--profile", default="")
    known, _ = named.parse_known_args(words)
    if not known.variant or "--help" in words:
        return words
    stated = params.load("train", profile=known.profile, variant=known.variant).train
    options = {
        "augment": stated.augment,
        "micro": stated.micro,
        "features-mb": stated.stage2.features_mb,
        "parallel": stated.parallel,
        "save-every": stated.save_every,
        "ranks": stated.ranks,
    }
    flags = ["--activation-checkpointing"] if stated.activation_checkpointing else []
    return [*(word for name, value in options.items() for word in (f"--{name}", str(value))), *flags, *words]


def lines(plan: "Plan") -> Iterator[str]:
    """The plan for reading."""
    sizes = ", ".join(f"{part} {count / 1e6:,.2f} M" for part, count in plan.parameters.items())
    load, machine = plan.load, plan.machine
    variant = f", variant {plan.variant}" if plan.variant else ""
    yield f"Profile {plan.profile}{variant}: {plan.model} ({plan.source})"
    yield f"parameters: {sizes}"
    yield (
        f"a sample: {load.tiles} tile{'s' * (load.tiles > 1)}, {load.prompt_tokens} tokens of prompt and "
        f"{load.answer_tokens} of answer, {load.padding_tokens} of padding ({load.source})"
    )
    yield f"{machine.gpus} GPU of {machine.memory_gib:g} GiB; frozen weights held in {machine.held}"
    yield from ("", "assumed:", *(f"  {line}" for line in plan.assumes))
    for name, stage in plan.stages.items():
        yield from ("", *_stage_lines(name, stage))
    yield from ("", f"hours: {plan.speed}")
    disk = sum(stage.disk_bytes for stage in plan.stages.values())
    results = sum(stage.result_bytes for stage in plan.stages.values())
    yield (
        f"disk: {_gib(disk)} GiB at most for a run, then {_gib(results)}; the study's {plan.runs} runs leave "
        f"{_gib(plan.runs * results)}"
    )
    yield from ("", *plan.limits)


def _stage_lines(name: str, stage: "StagePlan") -> Iterator[str]:
    passed = f"{stage.samples_at_a_time} at a time on a GPU" + (f", {stage.pieces} times" if stage.pieces > 1 else "")
    yield f"{name}: {stage.trained / 1e6:,.2f} M parameters trained, batches of {stage.batch_size} ({passed})"
    yield (
        f"  {stage.steps:,} steps, {stage.samples:,} samples in {stage.epochs} epoch{'s' * (stage.epochs > 1)}, "
        f"{stage.tokens / 1e6:,.1f} M tokens ({stage.tokens_per_sample} a sample)"
    )
    states = ", ".join(f"{part} {_gib(size)}" for part, size in stage.states.items() if size)
    yield f"  replicated states in full, GiB: {states}"
    yield f"  a checkpoint {_gib(stage.checkpoint_bytes)} GiB, the result {_gib(stage.result_bytes)} GiB"
    yield from ("", *_table(stage))


def _table(stage: "StagePlan") -> Iterator[str]:
    columns = stage.layouts.values()
    rows = [("GiB at the peak", list(stage.layouts))]
    parts = sorted({part for column in columns for part in column.parts}, key=_place)
    rows += [(part, [_gib(column.parts.get(part, 0)) for column in columns]) for part in parts]
    rows += [
        ("total", [_gib(column.total) for column in columns]),
        ("share of the GPU", [f"{column.share:.0%}{'' if column.fits else ' NO'}" for column in columns]),
        ("TFLOP a sample", [f"{column.tflop_per_sample:.3g}" for column in columns]),
    ]
    if all(column.hours is not None for column in columns):
        rows += [
            ("samples/s a GPU", [f"{column.samples_per_second:.3g}" for column in columns]),
            ("hours", [f"{column.hours:.3g}" for column in columns]),
        ]
    first = max(len(head) for head, _ in rows)
    widths = [max(map(len, cells)) for cells in zip(*(cells for _, cells in rows), strict=True)]
    for head, cells in rows:
        yield f"  {head:<{first}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))


def _place(part: str) -> int:
    from irgpt_lib.training.dry_run import PARTS
    from irgpt_lib.training.planning import OF_SHARDS

    return [*OF_SHARDS, *PARTS].index(part)


def _gib(size: int) -> str:
    if size == 0:
        return "–"
    return f"{size / GIB:.2f}" if size >= GIB / 10 else f"{size / GIB:.4f}"
