"""The group `tbps`, its console scripts, and the one place where errors become exit codes."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from tbps_infer import __version__

__all__ = ["cli", "export_main", "main", "search_main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "export": ("tbps_infer.cli.export:export", "Turn a checkpoint into a verified bundle."),
    "build": ("tbps_infer.cli.build:build", "Build a bundle's TensorRT engines on this machine."),
    "embed": ("tbps_infer.cli.embed:embed", "Embed pictures into a gallery."),
    "search": ("tbps_infer.cli.search:search", "Find people in a gallery by description."),
    "serve": ("tbps_infer.cli.serve:serve", "Serve a gallery: a page to search with, and a JSON API."),
    "gallery": ("tbps_infer.cli.gallery:gallery", "Index, compact, merge, verify and export galleries."),
    "explain": ("tbps_infer.cli.explain:explain", "Draw what the model looks at."),
    "info": ("tbps_infer.cli.info:info", "Tell what a checkpoint, a bundle or a gallery is."),
    "doctor": ("tbps_infer.cli.doctor:doctor", "Tell what this machine can run, and try a bundle on it."),
    "eval": ("tbps_infer.cli.evaluate:evaluate", "Measure Rank-k, mAP and mINP on a data set."),
    "verify": ("tbps_infer.cli.verify:verify", "Pass or fail a bundle's engine against its reference."),
    "bench": ("tbps_infer.cli.bench:bench", "Measure a bundle's speed and accuracy on this machine."),
    "train": ("tbps_infer.cli.train:train", "Train the reference model."),
    "init": ("tbps_infer.cli.init:init", "Write a checkpoint to start training from."),
    "data": ("tbps_infer.cli.data:data", "Draw or inspect data sets."),
    "demo": ("tbps_infer.cli.demo:demo", "Run the whole chain on synthetic people."),
}
"""Where each command lives and what the group's help says of it, so that help imports none of them."""

SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


class LazyGroup(click.Group):
    """A group that imports a command when it is run or its own help is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        _name_variables(command, f"TBPS_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; done, too, once the reader of its output has gone away.

        Here and not in `main`: click's own main turns a broken pipe into exit 1 before ours could see it.
        """
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            # Whoever read the output has enough of it; Python's own flush at exit must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        return code

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run, and end the process: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
        extra["standalone_mode"] = False
        try:
            code = super().main(args, prog_name, **extra)
        except click.exceptions.Exit as stop:
            code = stop.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("Interrupted.", err=True)
            code = 130
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _name_variables(command: click.Command, prefix: str) -> None:
    """Give every option its environment variable, by the name that a user types: ``--top-k`` is ``…_TOP_K``."""
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            typed = next(name for name in parameter.opts if name.startswith("--"))
            parameter.envvar = f"{prefix}{typed[1:]}".replace("-", "_").upper()
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):  # some are imported only here
            child = command.get_command(context, name)
            if child is not None:
                _name_variables(child, f"{prefix}_{name}")


EXTRAS: Mapping[str, str] = {
    "torch": "export",
    "transformers": "export",
    "safetensors": "export",
    "onnx": "export",
    "onnxscript": "export",
    "lightning_fabric": "train",
    "onnxruntime": "cpu",
    "fastapi": "serve",
    "starlette": "serve",
    "pydantic": "serve",
    "uvicorn": "serve",
    "prometheus_client": "serve",
    "python_multipart": "serve",
}
"""Which extra brings a package that only some commands need."""


def _report(error: Exception) -> int:
    """Print what a user can act on; a bug keeps its traceback."""
    from tbps_infer.errors import BackendError, TbpsError, UsageError

    missing = (error.name or "") if isinstance(error, ModuleNotFoundError) else ""
    if missing in EXTRAS:
        error = BackendError(
            f"This command needs the package {missing}, which is not installed.",
            f'Install it: pip install "tbps-infer[{EXTRAS[missing]}]".',
        )
    if not isinstance(error, TbpsError):
        raise error
    click.echo(f"Error: {error.message}", err=True)
    if error.hint:
        click.echo(f"Hint: {error.hint}", err=True)
    return 2 if isinstance(error, UsageError) else 1


@click.group(cls=LazyGroup, context_settings=SETTINGS)
@click.version_option(__version__, "--version", prog_name="tbps", message="%(prog)s %(version)s")
def cli() -> None:
    """Text-based person search: find people in a gallery of crops from a sentence.

    Every option is also an environment variable: TBPS_<COMMAND>_<OPTION>, as in TBPS_SEARCH_TOP_K=5.

    \b
    tbps export CHECKPOINT -o bundle
    tbps embed bundle pictures/ -o gallery
    tbps search gallery "a woman in a red coat with a grey backpack"
    """


def main() -> None:
    """The console script ``tbps``."""
    cli.main(prog_name="tbps")


def export_main() -> None:
    """The console script ``tbps-export``: ``tbps export``."""
    cli.main(["export", *sys.argv[1:]], prog_name="tbps")


def search_main() -> None:
    """The console script ``tbps-search``: ``tbps search``."""
    cli.main(["search", *sys.argv[1:]], prog_name="tbps")


if __name__ == "__main__":
    main()
