"""The application `groupppo`, and python -m groupppo.cli: errors a user can mend are printed without a traceback."""

from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

from groupppo.cli import cost, listing, new, results
from groupppo.cli.terminal import complain
from groupppo.errors import GroupPPOError
from groupppo.records.storage import room_for


class Commands(TyperGroup):
    """Ends with exit code 1 and the message of an error raised on purpose; any other keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            with room_for(Path.cwd()):
                return super().invoke(ctx)
        except GroupPPOError as error:
            complain(str(error))
            raise typer.Exit(1) from None


# Without rich's markup a page of help is the same on a screen, in a pipe and in a log.
app = typer.Typer(
    name="groupppo",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def groupppo() -> None:
    """GROUP-PPO bench: see, check and cost a benchmark before it runs; read its results afterwards.

    Snakemake runs benchmarks (`snakemake --config benchmark=benchmarks/quick.yaml`); nothing here does.

    \b
    Examples:
      groupppo ls arms                        what there is to compare
      groupppo new arm group_ppo_small        a commented file to edit
      groupppo validate benchmarks/*.yaml     every fault in them
      groupppo cost quick                     core-hours and storage of benchmarks/quick.yaml
      groupppo report quick                   figures and page of results/quick again
      groupppo verify results/quick/bundle.zip
      groupppo compare before.zip after.zip

    Exit codes: 0, fine; 1, something is wrong and was said; 2, the command was not understood, or (compare) not
    everything could be compared. An error that is nobody's input keeps its traceback.
    """


for module in (listing, cost, new, results):
    module.add(app)

if __name__ == "__main__":
    app()
