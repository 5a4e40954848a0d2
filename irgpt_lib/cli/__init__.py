"""`irgpt`: the library's functions from the shell. Errors leave with code 2 and one message on stderr."""

import typer

from irgpt_lib.cli import dataset, readme, release, sources

app = typer.Typer(help="IRGPT and IR-TD from the shell.", no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(sources.app, name="sources")
app.add_typer(release.app, name="release")
app.add_typer(dataset.app, name="dataset")
app.command("readme")(readme.readme)
