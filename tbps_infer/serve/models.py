"""What clients send and get, as JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, model_validator

from tbps_infer.errors import TbpsError, UsageError
from tbps_infer.gallery import Filter
from tbps_infer.gallery.columns import Value
from tbps_infer.queries import RocchioWeights, plain_sentence
from tbps_infer.serve.failures import RefusedError
from tbps_infer.serve.jobs import Combination
from tbps_infer.serve.options import Limits

__all__ = [
    "AttentionRequest",
    "BrowseReply",
    "BrowseRequest",
    "BrowsedReply",
    "ColumnsReply",
    "Count",
    "ExportRequest",
    "FilterRequest",
    "GalleryName",
    "GalleryReply",
    "HitReply",
    "RecordNumber",
    "RecordReply",
    "Reference",
    "SearchReply",
    "SearchRequest",
    "SegmentReply",
    "Strict",
    "TimelineReply",
]

LARGEST_RECORD = 2**63 - 1

RecordNumber = Annotated[int, Field(ge=0, le=LARGEST_RECORD, strict=True)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Short = Annotated[str, StringConstraints(max_length=200)]
GalleryName = Short
Finite = Annotated[float, Field(allow_inf_nan=False)]
Weight = Annotated[Finite, Field(ge=0, le=10)]

T = TypeVar("T")
# The limits of a server are below these, and its sentences tell them. These bound what is validated at all: the first
# wrong entry ends it.
Several = Annotated[list[T], Field(max_length=64), FailFast()]
Many = Annotated[list[T], Field(max_length=1000), FailFast()]
_KEY_CHARACTERS = 40
_NARROW = "Narrow the search down with a filter or another sentence."


class Strict(BaseModel):
    """An object without other keys than its own, of which the first is told."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _refuse_other_keys(cls, given: Any) -> Any:
        other = next((key for key in given if key not in cls.model_fields), None) if isinstance(given, dict) else None
        if other is not None:
            raise ValueError(f"there is no {other[:_KEY_CHARACTERS]!r} here")
        return given


class InGallery(Strict):
    """A record of a gallery that is not the first of those that are searched."""

    gallery: GalleryName
    record: RecordNumber


Reference = RecordNumber | InGallery
"""A record: its number in the first gallery that is searched, or with the name of its gallery."""


class PartRequest(Strict):
    """Some segments of a record, such as the stripe of its trousers."""

    record: Reference
    segments: Annotated[list[Short], Field(min_length=1, max_length=64), FailFast()]


class RocchioRequest(Strict):
    """What the query and the records judged right and wrong weigh."""

    query: Weight = RocchioWeights.query
    relevant: Weight = RocchioWeights.relevant
    not_relevant: Weight = RocchioWeights.not_relevant


class FilterRequest(Strict):
    """Which records are searched; conditions are joined by AND."""

    camera: Annotated[list[Short], Field(max_length=200), FailFast()] = []
    id: Annotated[list[Short], Field(max_length=200), FailFast()] = []
    not_id: Annotated[list[Short], Field(max_length=200), FailFast()] = []
    after: Short | None = Field(
        default=None, description="ISO 8601 or Unix time, included; without a zone as times are shown."
    )
    before: Short | None = Field(
        default=None, description="ISO 8601 or Unix time, excluded; without a zone as times are shown."
    )
    where: Annotated[str, StringConstraints(max_length=2000)] | None = Field(
        default=None, description="An expression over the metadata columns, in the grammar of docs/search.md."
    )

    def filter(self) -> Filter:
        """As the library takes it; what is empty does not filter."""
        return Filter(
            camera=tuple(self.camera),
            after=self.after or None,
            before=self.before or None,
            where=(self.where or "").strip() or None,
            id=tuple(self.id),
            not_id=tuple(self.not_id),
        )


class SearchRequest(Strict):
    """A person who is looked for: sentences, example pictures (base64 or records), and what is excluded."""

    texts: Several[str] = []
    pictures: Several[str] = Field(default=[], description="Pictures' files in base64.")
    like: Several[Reference] = Field(default=[], description="Records: more like these.")
    parts: Several[PartRequest] = Field(default=[], description="Parts of records: more with such parts.")
    exclude: Several[str] = []
    combine: Combination = Field(
        default="mean", description="Score several sentences by their average, by the best or by the worst of them."
    )
    relevant: Many[Reference] = Field(default=[], description="Records that were judged right.")
    not_relevant: Many[Reference] = Field(default=[], description="Records that were judged wrong.")
    rocchio: RocchioRequest = RocchioRequest()
    part_weights: Annotated[dict[Short, Weight], Field(max_length=64)] = Field(
        default={}, description="What the segments' shares of a score are multiplied by; 1 where left out."
    )
    image_weight: Annotated[Finite, Field(ge=0, le=1)] = 0.5
    exclude_weight: Annotated[Finite, Field(ge=0, le=4)] = 0.5
    k: Annotated[int, Field(ge=1, lt=2**31)] = 24
    skip: Annotated[int, Field(ge=0, lt=2**31)] = Field(default=0, description="Leave out so many of the best.")
    gallery: Several[GalleryName] = Field(default=[], description="Names; the first gallery where left out.")
    per_id: bool = False
    alike: Annotated[Finite, Field(ge=0, le=1)] | None = Field(
        default=None, description="Stack hits whose pictures' vectors have at least this cosine."
    )
    min_score: Finite | None = None
    strict: bool = Field(default=False, description="Refuse a sentence that the model cannot read in full.")
    filter: FilterRequest = FilterRequest()

    def check(self, limits: Limits) -> None:
        """Raise RefusedError (422) for what the limits or the sense of a query forbid."""
        for name, values, most in (
            ("texts", self.texts, limits.texts),
            ("exclude", self.exclude, limits.texts),
            ("pictures", self.pictures, limits.pictures),
            ("like and parts", (*self.like, *self.parts), limits.pictures),
            ("relevant and not_relevant", (*self.relevant, *self.not_relevant), limits.judged),
        ):
            if len(values) > most:
                have = "have" if " and " in name else "has"
                raise RefusedError(422, f"{name} {have} {len(values)} entries, and the limit is {most}.")
        for text in (*self.texts, *self.exclude):
            if len(text) > limits.text_characters:
                raise RefusedError(
                    422,
                    f"A sentence has {len(text)} characters, and the limit is {limits.text_characters}.",
                    "Describe the person in a sentence or two.",
                )
            try:
                plain_sentence(text)
            except UsageError as error:
                raise RefusedError(422, error.message, error.hint) from error
        if not (self.texts or self.pictures or self.like or self.parts):
            raise RefusedError(
                422, "A query needs a sentence or a picture.", "Describe the person who is looked for."
            )
        if self.k > limits.hits:
            raise RefusedError(422, f"k is {self.k}, and the limit is {limits.hits}.")
        depth = limits.depth if self.alike is None else limits.stacked
        if self.skip + self.k > depth:
            raise RefusedError(
                422, f"skip and k are {self.skip + self.k} together, and the limit is {depth}.", _NARROW
            )
        check_filter(self.filter)


def check_filter(asked: FilterRequest) -> None:
    """Raise RefusedError (422) for a filter that makes no sense."""
    try:
        asked.filter()
    except TbpsError as error:
        raise RefusedError(422, error.message, error.hint) from error


class BrowseRequest(Strict):
    """Records without a query: the newest first."""

    gallery: Several[GalleryName] = Field(default=[], description="Names; the first gallery where left out.")
    filter: FilterRequest = FilterRequest()
    k: Annotated[int, Field(ge=0, lt=2**31)] = 24
    skip: Annotated[int, Field(ge=0, lt=2**31)] = 0

    def check(self, limits: Limits) -> None:
        """Raise RefusedError (422) for what the limits or the sense of a filter forbid."""
        if self.k > limits.hits:
            raise RefusedError(422, f"k is {self.k}, and the limit is {limits.hits}.")
        check_filter(self.filter)


class AttentionRequest(Strict):
    """The sentence that a record's attention is drawn for."""

    text: str


class ExportRequest(Strict):
    """The chosen hits of a search, as a table or with their pictures."""

    format: Literal["csv", "zip"]
    records: Annotated[Many[Reference], Field(min_length=1)]
    search: SearchRequest


class HitReply(BaseModel):
    """One hit; `split` is the score's share of every segment, which sum to it."""

    record: int
    gallery: str
    rank: int
    score: float
    split: dict[str, float]
    name: str
    metadata: dict[str, Value]
    stack: int | None = Field(description="The rank of the better hit that looks like it, where that was asked for.")
    pictures: int | None = Field(
        description="How many records its identity has, where one per identity was asked for."
    )


class SearchReply(BaseModel):
    """Hits, best first."""

    hits: list[HitReply]
    warnings: list[str] = Field(description="What the model cannot read of the sentences; why there are no hits.")
    unknown: list[str] = Field(description="Words of the sentences that the model does not know.")
    most: dict[str, float] = Field(description="The most that each segment can give to a score of this query.")
    searched: int = Field(description="Records that passed the filter.")
    total: int = Field(description="Records in the galleries that were searched.")
    method: str
    encode_ms: float
    search_ms: float


class RecordReply(BaseModel):
    """One record; `state` tells whether its file is still the one that was embedded."""

    record: int
    name: str
    path: str
    metadata: dict[str, Value]
    size: int
    sha256: str
    state: Literal["same", "changed", "missing"]


class SegmentReply(BaseModel):
    """A part of every embedding and the most that it can give to a score."""

    name: str
    weight: float


class BrowsedReply(BaseModel):
    """One record among the newest."""

    record: int
    gallery: str
    name: str
    metadata: dict[str, Value]


class TimelineReply(BaseModel):
    """How many records there are in steps of time, as clocks showed it: seconds since 1970-01-01T00:00 there."""

    start_s: float
    step_s: int
    counts: list[int]


class BrowseReply(BaseModel):
    """Records, the newest first; those without a time last."""

    records: list[BrowsedReply]
    passing: int = Field(description="Records that pass the filter.")
    total: int
    timeline: TimelineReply | None = Field(description="Of those that pass; None where no record has a time.")


class GalleryReply(BaseModel):
    """One gallery; those with the same model can be searched together."""

    name: str
    total: int
    model: str


class ColumnsReply(BaseModel):
    """What the gallery can be filtered by, and what the page needs to show its scores."""

    columns: list[str]
    cameras: dict[str, int]
    first_time: float | None
    last_time: float | None
    total: int
    galleries: list[GalleryReply]
    family: str
    segments: list[SegmentReply]
    attention: bool = Field(description="Whether a record's attention can be asked for.")
    removal: bool = Field(description="Whether records can be removed: the server has a token.")
    limits: dict[str, float]
