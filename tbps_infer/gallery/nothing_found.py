"""Why a search found nothing: the condition that no record satisfies, and the values that there are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tbps_infer.gallery.filters import Filter
from tbps_infer.gallery.protocols import SearchableGallery

__all__ = ["why_nothing"]

_VALUES_SHOWN = 12


def why_nothing(
    gallery: SearchableGallery, where: Filter, min_score: float | None = None, *, passing: int | None = None
) -> str:
    """Why no record of a gallery was found, as a sentence.

    Args:
        gallery: What was searched.
        where: The filter of the search.
        min_score: The smallest score that was asked for.
        passing: How many records the whole filter lets pass, where a search has told: it is not evaluated again.
    """
    if not gallery.count:
        return "The gallery is empty."
    if passing or (passing is None and gallery.passing(where)):
        return "No picture is left." if min_score is None else f"No picture reaches a score of {min_score:g}."
    alone = dict(_conditions(where))
    for name, part in alone.items():
        # The expression may take long: it is not evaluated once more alone.
        if len(alone) == 1 or (name != "where" and not gallery.passing(part)):
            return _unsatisfied(gallery, part)
    return f"No picture satisfies {', '.join(alone)} together."


def _conditions(where: Filter) -> Iterator[tuple[str, Filter]]:
    """The conditions of a filter, each as a filter of its own."""
    for name in ("camera", "id", "after", "before", "not_id", "where"):
        if value := getattr(where, name):
            yield name, Filter(**{name: value})


def _unsatisfied(gallery: SearchableGallery, condition: Filter) -> str:
    """A condition that no record satisfies, and what there is instead."""
    for name, wanted in (("camera", condition.camera), ("id", condition.id)):
        if wanted:
            values = gallery.values(name, _VALUES_SHOWN + 1)
            if not values:
                return f"No picture has a value in the column {name}."
            there = f"there {'is' if len(values) == 1 else 'are'} {_listed(values, ', ')}"
            return f"No picture has {name} {_listed(wanted, ' or ')}; {there}."
    if condition.after or condition.before:
        times = gallery.first_and_last_time()
        if times is None:
            return "No picture has a time."
        when = f"{condition.after} or later" if condition.after else f"before {condition.before}"
        return f"No picture is from {when}; the first is from {times[0]}, the last from {times[1]}."
    if condition.where:
        return f"No picture satisfies {condition.where}."
    return "Every picture is of an identity that is excluded."


def _listed(values: Sequence[str], separator: str) -> str:
    shown = separator.join(values[:_VALUES_SHOWN])
    return shown if len(values) <= _VALUES_SHOWN else f"{shown} and more"
