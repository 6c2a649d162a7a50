"""Run with one version's bindings on the path: prints what they have of the API that the project uses, as JSON."""

from __future__ import annotations

import json
import re
import sys

import tensorrt_bindings  # type: ignore[import-not-found]

from tbps_infer.errors import BackendError
from tbps_infer.tensorrt.library import OPTIONAL_API, REQUIRED_API, open_library


def signatures(owner: str, member: str) -> list[str]:
    """The names of a method's parameters as its bindings state them, one for each way of calling it."""
    text = getattr(getattr(tensorrt_bindings, owner), member).__doc__ or ""
    found = re.finditer(rf"\b{member}\((.*)\) ->", text)
    return [", ".join(re.findall(r"(\w+): ", match[1])) for match in found]


def main() -> None:
    """Open the library as the project does, try to make a builder over the stub, and report."""
    sys.modules["tensorrt"] = tensorrt_bindings  # the package of that name only imports this one
    library = open_library("tensorrt")  # raises when something is missing
    try:
        library.create_builder()
        builder = "made"
    except BackendError as error:
        builder = error.message
    present = {
        f"{owner}.{member}": library.has(owner, member) for owner, names in OPTIONAL_API.items() for member in names
    }
    ways = {
        f"{owner}.{member}": signatures(owner, member) for owner, names in REQUIRED_API.items() for member in names
    }
    print(json.dumps({"version": library.version, "builder": builder, "optional": present, "signatures": ways}))


if __name__ == "__main__":
    main()
