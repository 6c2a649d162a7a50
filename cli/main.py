"""The group `tbps`, its console scripts, and the one place where errors become exit codes."""

from __future__ import annotations

import atexit
import errno
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from tbps_infer import __version__
from tbps_infer.cli.shared.signals import Terminated, raised_terminations
from tbps_infer.cli.shared.streams import discard, guard_streams
from tbps_infer.errors import BackendError, TbpsError, UsageError

__all__ = ["cli", "export_main", "main", "search_main"]

COMMANDS: Mapping[str, tuple[str, str]] = {
    "export": ("tbps_infer.cli.export:export", "Export a checkpoint to a verified bundle."),
    "build": ("tbps_infer.cli.build:build", "Build the TensorRT engines of a bundle."),
    "embed": ("tbps_infer.cli.embed:embed", "Embed pictures into a gallery."),
    "crop": ("tbps_infer.cli.crop:crop", "Crop the people out of videos and frames."),
    "search": ("tbps_infer.cli.search:search", "Search a gallery for people."),
    "clip": ("tbps_infer.cli.clip:clip", "Write the seconds around a hit as a video."),
    "serve": ("tbps_infer.cli.serve:serve", "Serve a gallery as a web page and a JSON API."),
    "gallery": ("tbps_infer.cli.gallery:gallery", "Index, compact, merge, verify and export galleries."),
    "deploy": ("tbps_infer.cli.deploy:deploy", "Write a bundle in the form that another server loads."),
    "explain": ("tbps_infer.cli.explain:explain", "Draw what a model attends to."),
    "info": ("tbps_infer.cli.info:info", "Describe a checkpoint, a bundle or a gallery."),
    "doctor": ("tbps_infer.cli.doctor:doctor", "Check what this machine can run."),
    "eval": ("tbps_infer.cli.evaluate:evaluate", "Measure Rank-k, mAP and mINP of a model."),
    "verify": ("tbps_infer.cli.verify:verify", "Compare an engine with its reference."),
    "bench": ("tbps_infer.cli.bench:bench", "Measure the speed and accuracy of a bundle."),
    "train": ("tbps_infer.cli.train:train", "Train the reference model."),
    "init": ("tbps_infer.cli.init:init", "Create a checkpoint to start training from."),
    "data": ("tbps_infer.cli.data:data", "Generate and inspect data sets."),
    "demo": ("tbps_infer.cli.demo:demo", "Run the whole pipeline on synthetic people."),
}
"""Every command's place and its line in the group's help, which is printed without importing the commands."""

SETTINGS: dict[str, Any] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
    "color": True,  # else click drops escape sequences where there is no terminal, and they are to be spelled out
}


class LazyGroup(click.Group):
    """A group that imports a command only to run it or to print its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """All names, in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import a command; None for an unknown name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        _complete_options(command, f"TBPS_{cmd_name}")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; below a script of its own, which has no name besides, it is called as the script is."""
        name, command, rest = super().resolve_command(ctx, args)
        return (name if ctx.info_name else f"tbps-{name}"), command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a reader that closes its output early is no error.

        Here and not in `main`, because click's own main turns a broken pipe into exit status 1.
        """
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            discard(sys.stdout)
            return 0
        return code

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> Any:
        """Run, and exit with status 0 (success), 1 (failure), 2 (wrong usage), 130 (interrupted) or a signal's."""
        guard_streams()
        extra["standalone_mode"] = False
        try:
            with raised_terminations():
                code = super().main(args, prog_name, **extra)
        except click.exceptions.Exit as stop:
            code = stop.exit_code
        except (click.Abort, KeyboardInterrupt) as stop:
            code = _stopped(stop)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except Exception as error:
            code = _report(error)
        sys.exit(code if isinstance(code, int) else 0)


def _stopped(stop: BaseException) -> int:
    """Say what stopped the command. Click hides an interruption behind an error of its own."""
    cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__
    if isinstance(cause, Terminated):
        click.echo(f"Terminated by {cause}.", err=True)
        cause.end_process()
        return 128 + cause.number  # for a container's first process, which no signal ends by itself
    click.echo("Interrupted.", err=True)
    return 130


_METAVARS = {"integer": "N", "integer range": "N", "float": "X", "float range": "X"}


def _complete_options(command: click.Command, prefix: str) -> None:
    """Give every option its environment variable, as in ``…_TOP_K`` for ``--top-k``, and numbers a short metavar."""
    for option in command.params:
        if isinstance(option, click.Option):
            long_name = next(name for name in option.opts if name.startswith("--"))
            option.envvar = f"{prefix}{long_name[1:]}".replace("-", "_").upper()
            option.metavar = option.metavar or _METAVARS.get(option.type.name)
    if isinstance(command, click.Group):
        for name, child in command.commands.items():
            _complete_options(child, f"{prefix}_{name}")


EXTRAS: Mapping[str, tuple[str, ...]] = {
    "export": ("torch", "transformers", "safetensors", "onnx", "onnxscript"),
    "train": ("lightning_fabric",),
    "cpu": ("onnxruntime",),
    "video": ("av", "trackers", "supervision"),
    "serve": ("fastapi", "starlette", "pydantic", "uvicorn", "prometheus_client", "python_multipart"),
}
"""The packages that only some commands need, by the extra that installs them."""


def _report(error: Exception) -> int:
    """Print an error that the user can act on; raise any other one with its traceback."""
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    extra = next((extra for extra, packages in EXTRAS.items() if missing in packages), None)
    if extra is not None:
        error = BackendError(
            f"This command needs the package {missing}, which is not installed.",
            f'Install it: pip install "tbps-infer[{extra}]".',
        )
    if isinstance(error, OSError):
        error = _of_system(error)
    if not isinstance(error, TbpsError):
        raise error
    click.echo(f"Error: {error.message}", err=True, color=True)
    if error.hint:
        click.echo(f"Hint: {error.hint}", err=True, color=True)
    return 2 if isinstance(error, UsageError) else 1


def _of_system(error: OSError) -> TbpsError:
    """What the system refused where no command expected it, as a sentence: a place, and what is wrong with it."""
    from tbps_infer.atomic import without_room

    full = without_room(error)
    if full is not None:
        return TbpsError(f"{full} is full.", "Make room there; TMPDIR names another folder for temporary files.")
    hints = {
        errno.EACCES: "Check its permissions.",
        errno.EPERM: "Check its permissions.",
        errno.EROFS: "Choose a place where you may write.",
    }
    place = f"{error.filename}: " if error.filename is not None else ""
    return TbpsError(f"{place}{error.strerror or error}.", hints.get(error.errno or 0, ""))


@click.group(cls=LazyGroup, context_settings=SETTINGS)
@click.version_option(__version__, "--version", prog_name="tbps", message="%(prog)s %(version)s")
def cli() -> None:
    """Search pictures of people by description.

    Every option can also be set by an environment variable, such as TBPS_SEARCH_TOP_K=5 for tbps search --top-k 5.

    \b
    tbps export checkpoint -o bundle
    tbps embed bundle pictures/ -o gallery
    tbps search gallery "a woman in a red coat with a grey backpack"
    """


_GC_THRESHOLD = 10_000
"""New objects between two collections of garbage: imports make many that stay, and 700, Python's own, are few."""


def _run(args: Sequence[str] | None, prog_name: str) -> None:
    """Run in a process that is the command's own."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")  # of NumPy's: 26 is some 25 ms in a loop on another core
    gc.set_threshold(_GC_THRESHOLD)
    atexit.register(gc.freeze)  # what the process ends with needs no collection: the system takes it all
    cli.main(args, prog_name)


def main() -> None:
    """The console script ``tbps``."""
    _run(None, "tbps")


def export_main() -> None:
    """The console script ``tbps-export``: ``tbps export``."""
    _run(["export", *sys.argv[1:]], "")


def search_main() -> None:
    """The console script ``tbps-search``: ``tbps search``."""
    _run(["search", *sys.argv[1:]], "")


if __name__ == "__main__":
    main()
