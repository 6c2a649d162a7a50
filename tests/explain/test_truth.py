"""The measures of truth against cases worked out by hand, and against people drawn for them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from command_line import fail, succeed
from places import SHIPPED

from tbps_infer.data.readers import read_dataset
from tbps_infer.data.synth import plan_shot
from tbps_infer.data.synth.attributes import NONE, Person, draw_people
from tbps_infer.data.synth.captions import write_captions
from tbps_infer.data.synth.truth import described_words, part_truth, stripes_of, value_shares
from tbps_infer.errors import DatasetError
from tbps_infer.explain.truth import agreement, mean_cosine, pointing, rank_correlation

SHOT = replace(plan_shot(0, 1, 0, 256), top=0.0, figure=1.0, occluder="none")


@pytest.fixture(scope="module")
def person() -> Person:
    found = next(draw_people(0))
    return replace(
        found, upper="t-shirt", jacket=NONE, lower="shorts", shoes="sneakers", hair_style="short", bag=NONE
    )


def test_parts_lie_in_the_stripes_where_they_are_drawn(person: Person) -> None:
    """A person as high as the crop: stripes of a sixth; the shirt reaches from 0.15 to 0.51, the shorts to 0.7."""

    def where(part: str, person: Person = person) -> list[int]:
        return [k for k, shown in enumerate(stripes_of(part, person, SHOT, 6)) if shown]

    assert where("hair") == [0]
    assert where("outer") == [1, 2]
    assert where("lower") == [3]  # of stripe 4, from 0.67 on, they cover a fifth
    assert where("shoes") == [5]
    assert where("bag") == []
    assert where("lower", replace(person, upper="coat")) == []  # wholly below the coat
    assert where("shoes", replace(person, shoes="boots")) == [5] and where(
        "hair", replace(person, hair_style="long")
    ) == [0, 1]
    half = replace(SHOT, top=0.25, figure=0.5)  # half as high: the shirt from 0.325 to 0.505
    assert np.flatnonzero(stripes_of("outer", person, half, 6)).tolist() == [2]


def test_words_of_parts_are_found_as_they_stand() -> None:
    for identity, someone in enumerate(islice(draw_people(4), 60), start=1):
        for caption in write_captions(someone, plan_shot(4, identity, 0, 256), 2, 4, identity, 0):
            spans = described_words(caption)
            words = [caption.text[start:stop].lower() for (start, stop), _ in spans]
            assert all(word.replace("-", "").isalpha() for word in words)
            assert not {"a", "an", "the", "and", "with"} & set(words)
            for part in dict.fromkeys(part for _, part in spans):
                said = [word for word, (_, of) in zip(words, spans, strict=True) if of == part]
                phrase = dict(caption.phrases)[part].lower().split()
                assert [word for word in phrase if word in said] == [word for word in said if word in phrase]


def test_pointing_by_hand() -> None:
    """Two tokens, four pieces: piece 1 is about stripe 0, piece 2 about both, pieces 0 and 3 about none."""
    shown = np.array([[False, False], [True, False], [True, True], [False, False]])
    attention = np.array([[0.1, 0.6, 0.2, 0.1], [0.0, 0.3, 0.7, 0.0]])
    own, other, even = pointing(attention, shown)
    assert own == pytest.approx((0.8 + 0.7) / 2)
    assert other == pytest.approx((1.0 + 0.2) / 2)
    assert even == pytest.approx((0.5 + 0.25) / 2)
    only = pointing(attention, shown & [True, False])  # nobody speaks of stripe 1
    assert only[0] == pytest.approx(0.8)
    assert all(map(math.isnan, pointing(attention, np.zeros((4, 2), bool))))


def test_agreement_by_hand() -> None:
    """Token 0 looks at stripe 0 and reads of it, token 1 at stripe 1; exchanged they agree in nothing."""
    shown = np.array([[True, False], [False, True]])
    image, text = np.eye(2), np.array([[0.9, 0.0], [0.0, 0.5]])
    assert agreement(image, text, shown) == pytest.approx((1.0, 0.0))
    assert agreement(image, text[::-1], shown) == pytest.approx((0.0, 1.0))
    same = agreement(np.full((2, 2), 0.5), text, shown)
    assert same == pytest.approx((0.5, 0.5))
    assert all(map(math.isnan, agreement(image, np.zeros((2, 2)), shown)))


def test_cosines_and_ranks_by_hand() -> None:
    assert mean_cosine(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])) == pytest.approx(1 / 3)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 99.0])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([9.0, 5.0, 1.0])) == pytest.approx(-1)
    tied = rank_correlation(np.array([1.0, 1.0, 2.0]), np.array([1.0, 2.0, 3.0]))  # ranks 1.5 1.5 3 and 1 2 3
    assert tied == pytest.approx(math.sqrt(0.75))
    assert math.isnan(rank_correlation(np.ones(3), np.array([1.0, 2.0, 3.0])))


def test_a_part_that_more_people_share_is_more_common(people: Path) -> None:
    split = read_dataset(people, "test")
    truths = part_truth(people, split, 6)
    assert len(truths) == len(split.pictures) and all(len(truth.words) == 2 for truth in truths)
    drawn = list(islice(draw_people(0), 12))
    shares = value_shares(drawn)
    assert shares["kind", drawn[0].kind] == sum(p.kind == drawn[0].kind for p in drawn) / 12
    known = np.concatenate([truth.commonality for truth in truths])
    assert (known[np.isfinite(known)] <= 0).all() and np.isfinite(known).mean() > 0.8


def test_captions_of_another_version_are_refused(people: Path) -> None:
    split = read_dataset(people, "test")
    other = replace(split, pictures=(replace(split.pictures[0], captions=("A man.", "A woman.")),))
    with pytest.raises(DatasetError, match="are not those that its seed gives"):
        part_truth(people, other, 6)


def test_by_the_command_line(people: Path, tmp_path: Path) -> None:
    done = succeed("explain", SHIPPED, "--truth", people)
    assert done.stdout.count("rank correlation") == 6 and "words about stripe k" in done.stdout
    assert "exclude each other" in fail(2, "explain", SHIPPED, "--truth", people, "--commonality", people).stderr
    assert "leave -o out" in fail(2, "explain", SHIPPED, "--truth", people, "-o", tmp_path / "x.png").stderr


def test_a_data_set_that_was_not_drawn_is_refused(people: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not tell what was drawn"):
        part_truth(tmp_path, read_dataset(people, "test"), 6)
