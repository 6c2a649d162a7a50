"""What the routes of one server share."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastapi import Request

from tbps_infer.serve.access import Access
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.jobs import Place
from tbps_infer.serve.live_gallery import LiveGallery
from tbps_infer.serve.metrics import Metrics
from tbps_infer.serve.models import Reference
from tbps_infer.serve.options import ServeOptions
from tbps_infer.serve.pictures import Pictures
from tbps_infer.serve.searcher import Searcher

__all__ = ["Service", "service_of"]


@dataclass
class Service:
    """What the routes use; `expressions` bounds how many metadata expressions are evaluated at once."""

    searchers: Sequence[Searcher]
    pictures: Pictures
    options: ServeOptions
    access: Access
    metrics: Metrics
    expressions: asyncio.Semaphore

    @property
    def searcher(self) -> Searcher:
        """The one of the first gallery."""
        return self.searchers[0]

    @property
    def galleries(self) -> dict[str, LiveGallery]:
        """All of them, by name."""
        return {name: gallery for searcher in self.searchers for name, gallery in searcher.galleries.items()}

    def gallery(self, name: str | None) -> LiveGallery:
        """A gallery by name, the first where that is None; raises RefusedError (404) where there is none."""
        return self.searcher.gallery if name is None else self._known(name).galleries[name]

    def together(self, names: Iterable[str]) -> tuple[Searcher, tuple[str, ...]]:
        """What searches some galleries, and their names, each once; no name is the first gallery.

        Raises:
            RefusedError: 404, where there is none of a name; 422, where their models differ.
        """
        wanted = tuple(dict.fromkeys(names)) or (next(iter(self.searcher.galleries)),)
        searchers = [self._known(name) for name in wanted]
        for name, searcher in zip(wanted, searchers, strict=True):
            if searcher is not searchers[0]:
                raise RefusedError(
                    422,
                    f"The galleries {wanted[0]} and {name} were embedded by different models.",
                    "Search one after the other: their scores cannot be compared.",
                )
        return searchers[0], wanted

    def place(self, reference: Reference, first: str) -> Place:
        """The record that a client names; a number alone is one of the first gallery that is searched."""
        if isinstance(reference, int):
            return Place(first, reference)
        self._known(reference.gallery)
        return Place(reference.gallery, reference.record)

    def _known(self, name: str) -> Searcher:
        for searcher in self.searchers:
            if name in searcher.galleries:
                return searcher
        raise RefusedError(404, f"There is no gallery {name!r}.", f"There are {', '.join(self.galleries)}.")


def service_of(request: Request) -> Service:
    """The service that a request came to."""
    service: Service = request.app.state.service
    return service
