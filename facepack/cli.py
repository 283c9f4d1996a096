"""The command line: one line per verb."""

import sys

import typer

from facepack import shadow
from facepack.errors import UsageError

try:
    shadow.check_trainer()
except UsageError as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(2)

from facepack import builder, catalogue, demo, fetching, preview, verification
from trainer import commands

app = typer.Typer(
    name="facepack",
    help="Face datasets into verified WebDataset shards, and shards into trained networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command("datasets")(catalogue.command)
app.command("fetch")(fetching.command)
app.command("build")(builder.command)
app.command("verify")(verification.command)
app.command("preview")(preview.command)
app.command("train")(commands.train)
app.command("experiment")(commands.experiment)
app.command("evaluate")(commands.evaluate)
app.command("predict")(commands.predict)
app.command("report")(commands.report)
app.command("recipes")(commands.recipes)
app.command("demo")(demo.command)


def main() -> None:
    """Run the command line."""
    app()
