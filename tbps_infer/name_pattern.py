"""Metadata from the names of picture files, as patterns describe them."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path

from tbps_infer.errors import UsageError
from tbps_infer.gallery.columns import column_problem

__all__ = ["NAME_PATTERNS", "NamePattern"]

NAME_PATTERNS = {
    "market1501": "{id}_{camera}s{}_{}_{}",  # 0002_c1s1_000451_03.jpg
    "dukemtmc": "{id}_{camera}_f{}",  # 0005_c2_f0046985.jpg
    "msmt17": "{id}_{}_{camera}_{}",  # 0003_019_05_0303morning_0040_0.jpg
    "cuhk-pedes": "{camera}/{}",  # CUHK01/0363004.png, train_query/p8848_s17661.jpg: the folder is the camera
}
"""Patterns of data sets; identities are in the names of the first three."""

# The directives of strptime that stand for a fixed kind of text.
_DIRECTIVES = dict.fromkeys("mdHMSyI", r"\d\d") | {
    "Y": r"\d{4}",
    "j": r"\d{3}",
    "f": r"\d{1,6}",
    "z": r"(?:Z|[+-]\d\d:?\d\d)",
    "p": "[AaPp][Mm]",
    "%": "%",
}
_SOMETHING = "[^/]+?"


@dataclass(frozen=True)
class NamePattern:
    """What the names of picture files hold, such as ``cam{camera}_{time:%Y-%m-%dT%H-%M-%S}_{}``.

    ``{camera}`` is the value of a column, ``{time:…}`` a time in the form that `datetime.strptime` takes, and ``{}``
    anything. A pattern describes the whole name without its extension; with ``/`` in it, the folders above as well.

    Attributes:
        pattern: The pattern, or a name of `NAME_PATTERNS`.
    """

    pattern: str

    def __post_init__(self) -> None:
        _ = self._expression  # raises

    def match(self, path: Path) -> dict[str, str] | None:
        """The values of the columns, None where the name does not follow the pattern."""
        depth = self._text.count("/") + 1
        match = self._expression.fullmatch("/".join((*path.parts[-depth:-1], path.stem)))
        if match is None:
            return None
        values = {self._columns[group]: value for group, value in match.groupdict().items()}
        if self._time_form is not None:
            try:
                values["time"] = datetime.strptime(values["time"], self._time_form).isoformat()
            except ValueError:  # such as a 31st of February
                return None
        return values

    @property
    def _text(self) -> str:
        return NAME_PATTERNS.get(self.pattern, self.pattern)

    @cached_property
    def _fields(self) -> list[tuple[str, str | None, str]]:
        """What is written, then the column that follows, and the form of its time; None where none follows."""
        try:
            parsed = list(string.Formatter().parse(self._text))
        except ValueError as error:
            raise self._problem(f"{error}") from error
        for _, name, _, conversion in parsed:
            if conversion:
                raise self._problem(f"{{{name}!{conversion}}} converts its value, which a pattern cannot")
        return [(literal, name, form or "") for literal, name, form, _ in parsed]

    @cached_property
    def _columns(self) -> dict[str, str]:
        """Columns by the names of their groups, as a column's name may be none of a group."""
        names = [name for _, name, _ in self._fields if name]
        return {f"column{number}": name for number, name in enumerate(names)}

    @cached_property
    def _time_form(self) -> str | None:
        return next((form for _, name, form in self._fields if name == "time" and form), None)

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        if not self._columns:
            raise self._problem("it names no column")
        groups = iter(self._columns)
        expression = ""
        for literal, name, form in self._fields:
            expression += re.escape(literal)
            if form and name != "time":
                raise self._problem(f"only a time has a form, and {name!r} has {form!r}")
            if name and (problem := column_problem(name)):
                raise self._problem(f"the column name {name!r} {problem}")
            if name:
                expression += f"(?P<{next(groups)}>{self._time_expression(form) if form else _SOMETHING})"
            elif name is not None:
                expression += _SOMETHING
        if len(set(self._columns.values())) < len(self._columns):
            raise self._problem("a column is there twice")
        return re.compile(expression)

    def _time_expression(self, form: str) -> str:
        """What a time in a form of strptime looks like."""
        expression = ""
        if form.replace("%%", "").endswith("%"):
            raise self._problem(f"the form {form!r} of the time ends with a % that stands for nothing")
        for literal, directive in re.findall(r"([^%]*)(?:%(.))?", form):
            if directive and directive not in _DIRECTIVES:
                raise self._problem(f"%{directive} is not known; want one of %{', %'.join(_DIRECTIVES)}")
            expression += re.escape(literal) + (_DIRECTIVES[directive] if directive else "")
        named = re.findall("%(.)", form)
        if len(set(named)) < len(named):
            raise self._problem(f"the form {form!r} of the time has a directive twice")
        if not {"Y", "y"} & set(named):
            raise self._problem(f"the form {form!r} of the time has no year, %Y or %y")
        return expression

    def _problem(self, reason: str) -> UsageError:
        return UsageError(
            f"The name pattern {self.pattern!r} cannot be used: {reason}.",
            "Write it as in 'cam{camera}_{time:%Y-%m-%dT%H-%M-%S}_{}', or name one of "
            f"{', '.join(NAME_PATTERNS)}.",
        )
