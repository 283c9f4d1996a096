"""The command line: one line per verb."""

import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from facepack import shadow
from facepack.errors import UsageError

try:
    shadow.check_trainer()
    from facepack import commands, people_commands, terminal
    from trainer import commands as trainer_commands
except UsageError as error:
    sys.stderr.write(f"error: {error}\n")
    sys.exit(2)
except ImportError as error:
    if error.name == "fcntl":  # Windows
        sys.exit("error: facepack runs on Linux and macOS")
    raise

app = typer.Typer(
    name="facepack",
    help="Face datasets into verified WebDataset shards, and shards into trained networks.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it would take brackets in help texts for markup
    context_settings={"max_content_width": 120},
)

app.command("datasets")(commands.datasets)
app.command("fetch")(commands.fetch)
app.command("build")(commands.build)
app.command("verify")(commands.verify)
app.command("preview")(commands.preview)
app.command("describe")(people_commands.describe)
app.command("people")(people_commands.people)
app.command("bench")(trainer_commands.bench)
app.command("train")(trainer_commands.train)
app.command("experiment")(trainer_commands.experiment)
app.command("evaluate")(trainer_commands.evaluate)
app.command("doubt")(trainer_commands.doubt)
app.command("predict")(trainer_commands.predict)
app.command("export")(trainer_commands.export)
app.command("report")(trainer_commands.report)
app.command("recipes")(trainer_commands.recipes)
app.command("demo")(commands.demo)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=commands.show_version, help="Show the version.")
    ] = False,
) -> None:
    """Face datasets into verified WebDataset shards, and shards into trained networks."""


def main() -> None:
    """Run the command line; a command that cannot be read ends with one line and exit code 2, too."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except TyperException as error:
        terminal.show_error(error.format_message().replace("Value error, ", ""))
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
