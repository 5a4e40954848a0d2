"""`irgpt`: the library's functions from the shell. Errors leave with code 2 and one message on stderr."""

import warnings

import typer

from irgpt_lib.cli import benchmark, dataset, models, predict, readme, release, score, sources, train

# peft asks transformers in the old way; who types a command can change nothing about it
warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
app = typer.Typer(help="IRGPT and IR-TD from the shell.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(sources.app, name="sources")
app.add_typer(release.app, name="release")
app.add_typer(dataset.app, name="dataset")
app.add_typer(models.app, name="models")
app.add_typer(train.app, name="train")
app.add_typer(benchmark.app, name="benchmark")
app.command("predict")(predict.predict)
app.command("score")(score.score)
app.command("readme")(readme.readme)
