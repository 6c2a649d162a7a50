"""What mkdocs.yml cannot say: pages that lie outside docs/, the page of commands, and four folders of one package."""

from __future__ import annotations

import inspect
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
COMMANDS = "reference/commands.md"
"""The page of all commands."""
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository's root, and the pages that they become."""


# Before mkdocstrings, which forgets a path that is not there yet.
@event_priority(100)  # type: ignore[untyped-decorator]  # mkdocs is not in the environment that is type-checked
def on_config(_: MkDocsConfig) -> None:
    """Lay out the package as an installation does, for a reader of sources that does not import them."""
    package = ROOT / "build" / "docs" / "tbps_infer"
    shutil.rmtree(package, ignore_errors=True)
    # Copies: a link would be followed to the folder that has one part of the package alone.
    shutil.copytree(ROOT / "tbps_infer", package, ignore=shutil.ignore_patterns("assets", "__pycache__"))
    for name in ("export", "benchmarks", "cli"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root, with their links as they are seen from docs/, and the page of commands."""
    from tbps_infer.cli.main import cli

    for name, page in PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        for source, target in PAGES.items():
            text = text.replace(f"]({source})", f"]({target})")
        text = text.replace("](docs/", "](")
        text = re.sub(r"`[^`\n]+`", lambda code: code[0].replace("\\|", "|"), text)  # in tables, GitHub's way
        files.append(File.generated(config, page, content=text))
    commands = "\n".join(["# Commands", *_command_page(cli, "tbps", None)])
    files.append(File.generated(config, COMMANDS, content=commands))
    return files


def on_page_content(html: str, **_: object) -> str:
    """Show one colon where a docstring has two before a literal block."""
    return html.replace("::</p>", ":</p>")


def _command_page(command: click.Command, name: str, parent: click.Context | None) -> Iterator[str]:
    """A command's help as Markdown, and that of the commands below it."""
    # Not by mkdocs-click: it joins the lines of an example, and leaves out commands that a group imports late.
    context = click.Context(command, parent, name, **command.context_settings)
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    yield from ("", f"## {context.command_path}", "", f"`{usage}`", "")
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        if paragraph.startswith("\b\n"):
            yield from ("```console", *(f"$ {line}" for line in paragraph.splitlines()[1:]), "```", "")
        else:
            yield from (paragraph.replace("<", "&lt;").replace("_", "\\_"), "")
    yield from ("| option | meaning |", "|---|---|")
    for option in (one for one in command.get_params(context) if isinstance(one, click.Option)):
        names, meaning = option.get_help_record(context) or ("", "")
        meaning = meaning.replace("<", "&lt;").replace("|", "\\|")
        yield f"| `{names}` | {meaning} |"
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            assert found is not None
            yield from _command_page(found, child, context)
