"""Captions: sentences over the parts that a picture shows, as long and as varied as people write them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from tbps_infer.data.synth.attributes import NONE, Person, draw_people, is_female
from tbps_infer.data.synth.lexicon import PHRASES, SLEEVES, SUBJECTS
from tbps_infer.data.synth.phrases import Claim, Namer, Phrase, with_article
from tbps_infer.data.synth.picture import DEFAULT_HEIGHT
from tbps_infer.data.synth.shots import Shot, plan_shot
from tbps_infer.data.synth.streams import pick, stream
from tbps_infer.data.synth.visibility import visible_parts

__all__ = ["Caption", "caption_tokens", "sample_captions", "write_captions"]

# Lengths of real captions: 23 words in the mean, a long tail; a log-normal whose drawn length is what is aimed at.
_MEDIAN_WORDS, _SPREAD = 15.2, 0.6
_TOKEN = re.compile(r"[a-z]+(?:-[a-z]+)*")
# How often each part is worth a word to people who describe a crop.
_SALIENCE = {"shoes": 5.0, "hair": 4.5, "bag": 6.0, "held": 3.5, "headwear": 5.0, "glasses": 2.5, "scarf": 4.0}
_WORN = ("headwear", "scarf", "outer", "lower", "shoes")


@dataclass(frozen=True)
class Caption:
    """A caption and everything that it claims about the person.

    Attributes:
        text: The sentences.
        claims: What they claim.
        phrases: Each described part with the words for it, as they stand in the text.
    """

    text: str
    claims: tuple[Claim, ...]
    phrases: tuple[tuple[str, str], ...]


def caption_tokens(text: str) -> list[str]:
    """Lower-case words without punctuation, as the data set's `processed_tokens`."""
    return _TOKEN.findall(text.lower())


class _Composer:
    """Makes one caption."""

    def __init__(self, person: Person, shot: Shot, rng: Random) -> None:
        self.person, self.shot, self.rng = person, shot, rng
        female = is_female(person.kind)
        self.he, self.his = ("she", "her") if female else ("he", "his")
        self.namer = Namer(person, visible_parts(person, shot), rng)
        self.claims: list[Claim] = []
        self.subject = self._draw_subject()
        self.target = min(90.0, max(10.0, rng.lognormvariate(math.log(_MEDIAN_WORDS), _SPREAD)))

    def _draw_subject(self) -> str:
        word = self.rng.choice(SUBJECTS[self.person.kind])
        kinds = {"male": ("man", "boy"), "female": ("woman", "girl")}.get(word.split()[0], (self.person.kind,))
        self.claims.append(frozenset(("kind", kind) for kind in kinds))
        builds = {"slim": ("slim", "thin"), "heavy": ("heavyset", "stout")}.get(self.person.build)
        if builds and self.rng.random() < 0.15 and word in ("man", "woman", "boy", "girl"):
            self.claims.append(frozenset({("build", self.person.build)}))
            return f"{self.rng.choice(builds)} {word}"
        return word

    def say(self, purpose: str, **parts: str) -> str:
        """One phrasing; verbs are drawn here too, so that every use has its own."""
        verbs = {verb: self.rng.choice(PHRASES[verb]) for verb in ("wears", "wearing", "carries", "holds")}
        common = {
            "He": self.he.capitalize(), "he": self.he, "His": self.his.capitalize(), "his": self.his,
            "him": "her" if self.he == "she" else "him", "subject": self.subject.split()[-1],
        }  # fmt: skip
        return self.rng.choice(PHRASES[purpose]).format(**{**common, **verbs, **parts})

    def choose(self) -> dict[str, Phrase]:
        """Name parts until the caption is about as long as it should be; both garments come first."""
        namer = self.namer
        named: dict[str, Phrase] = {"outer": namer.outer()}
        lower = namer.lower()
        if lower is not None:
            named["lower"] = lower
        rest = {
            "shoes": namer.shoes(), "hair": namer.hair(), "bag": namer.bag(self.his), "held": namer.held(self.his),
            "headwear": namer.headwear(), "glasses": namer.glasses(), "scarf": namer.scarf(),
        }  # fmt: skip
        known = {part: phrase for part, phrase in rest.items() if phrase is not None}
        words = 5.5 + sum(phrase.words for phrase in named.values())
        while known and (words < self.target - 3 or len(named) < 3):
            part = pick(self.rng, {name: _SALIENCE[name] for name in known})
            named[part] = known.pop(part)
            words += named[part].words + 2.2
        self.room = self.target - words
        return named

    def doing(self) -> str:
        """What the person does, as the shot shows it."""
        shot = self.shot
        if abs(shot.facing) < 0.8:
            view = "side"
        else:
            view = "front" if shot.facing > 0 else "back"
        turn = "right" if math.sin(shot.yaw) > 0 else "left"
        return self.say(f"{'walking' if shot.walking else 'standing'} {view}", turn=turn)

    def compose(self) -> Caption:
        """The whole caption."""
        named = self.choose()
        for phrase in named.values():
            self.claims.extend(phrase.claims)
        phrases = tuple((part, phrase.text) for part, phrase in named.items())
        sentences = self._opening(named)
        sentences += self._rest(named)
        remarks = self._remarks()
        while remarks and sum(len(s.split()) for s in sentences) + 4 < self.target:
            remark = remarks.pop(0)
            sentences.append(remark.text)
            self.claims.extend(remark.claims)
        text = " ".join(f"{s[0].upper()}{s[1:]}." for s in sentences)
        return Caption(text, tuple(self.claims), phrases)

    def _remarks(self) -> list[Phrase]:
        """What a thorough writer adds about pose and build, all of it true of the shot."""
        p, shot, seen = self.person, self.shot, self.namer.seen
        remarks = [Phrase(self.say("also does", x=self.doing()), ())]
        if shot.bow > 0.5 and seen.face:
            remarks.append(Phrase(self.say("also does", x=self.say("bowed")), ()))
        if p.bag == NONE and p.held == NONE:
            nothing: tuple[Claim, ...] = (frozenset({("bag", NONE)}), frozenset({("held", NONE)}))
            remarks.append(Phrase(self.say("empty handed"), nothing))
        remarks.append(Phrase(self.say(f"{p.build} build"), (frozenset({("build", p.build)}),)))
        if shot.walking:
            ahead, behind = ("left", "right") if shot.stride > 0 else ("right", "left")
            remarks.append(Phrase(self.say("stepping", side=ahead, other=behind), ()))
        if p.upper in SLEEVES and p.jacket == NONE:
            remarks.append(Phrase(self.say(f"{SLEEVES[p.upper]} sleeves"), ()))
        self.rng.shuffle(remarks)
        return remarks

    def _who(self) -> str:
        if self.rng.random() < 0.35:
            return self.say("definite", subject=self.subject)
        return with_article(self.subject)

    def _opening(self, named: dict[str, Phrase]) -> list[str]:
        """The first sentence; takes what it says out of `named`."""
        worn: list[str] = [part for part in ("outer", "lower") if part in named]
        split = self.room > 4 and self.rng.random() < 0.4
        if split:
            worn = worn[:1]
        for part in ("shoes", "headwear", "scarf"):
            if part in named and not split and len(worn) < 4 and self.rng.random() < 0.6:
                worn.append(part)
        if self.rng.random() < 0.15:
            worn.sort(key=_WORN.index)
        wear = self._outfit([named.pop(part).text for part in worn])
        who, have = self._who(), ""
        owned = [part for part in ("hair", "glasses") if part in named and self.rng.random() < 0.7]
        if owned:
            have = self._join([named.pop(part).text for part in owned])
        sentence = self._main(who, wear, have)
        return [sentence if sentence.endswith(have) and have else self._tail(sentence, named)]

    def _main(self, who: str, wear: str, have: str) -> str:
        roll = self.rng.random()
        if have and roll < 0.5:
            return self.say("main", who=self.say("with", who=who, have=have), wear=wear)
        if have and roll < 0.85:
            return self.say("main has", who=who, have=have, wear=wear)
        if have:
            return self.say("fronted has", who=who, have=have, wear=wear)
        if roll < (0.62 if self.room > 0 else 0.88):
            return self.say("main", who=who, wear=wear)
        doing = self.doing()
        self.room -= 4
        return self.say("main doing" if self.rng.random() < 0.7 else "fronted doing", who=who, wear=wear, doing=doing)

    def _tail(self, sentence: str, named: dict[str, Phrase]) -> str:
        """Sometimes what is carried follows in the same sentence."""
        if self.room > 4 or " and " in sentence[-40:] or self.rng.random() < 0.55:
            return sentence
        if "bag" in named and self.namer.seen.bag == "all":
            return self.say("tail", sentence=sentence, x=named.pop("bag").text)
        if "held" in named:
            return self.say("tail held", sentence=sentence, x=named.pop("held").text)
        return sentence

    def _rest(self, named: dict[str, Phrase]) -> list[str]:
        """One sentence for each kind of thing that the opening left out, in an order of their own."""
        sentences: list[str] = []
        worn = [part for part in _WORN if part in named]
        if len(worn) > 1 and self.room < 6:
            x = self._join([named.pop(part).text for part in worn])
            sentences.append(self.say("also wears", x=x, wears=self.rng.choice(PHRASES["wears small"])))
        owned = [named.pop(part).text for part in ("hair", "glasses") if part in named]
        if owned:
            sentences.append(self.say("also has", x=self._join(owned)))
        for part, phrase in named.items():
            sentences.append(self._sentence(part, phrase.text))
        self.rng.shuffle(sentences)
        return sentences

    def _sentence(self, part: str, text: str) -> str:
        purpose = {"shoes": "shoes", "lower": "lower", "held": "also holds", "bag": "also carries"}.get(
            part, "also wears"
        )
        if part == "bag" and self.namer.seen.bag == "straps":
            purpose = "also has"
            text = f"{text} over {self.his} shoulders"
        elif part == "bag" and self.person.bag == "suitcase" and self.rng.random() < 0.6:
            return self.say("also does", x=f"{self.say('pulls')} {text}")
        if part in ("headwear", "scarf", "shoes"):
            return self.say(purpose, x=text, wears=self.rng.choice(PHRASES["wears small"]))
        return self.say(purpose, x=text)

    def _outfit(self, texts: list[str]) -> str:
        """Two garments are sometimes joined by "with", unless the first has one of its own."""
        if len(texts) == 2 and " with " not in texts[0]:
            return self.rng.choice(PHRASES["joins"]).format(x=texts[0], y=texts[1])
        return self._join(texts)

    def _join(self, texts: list[str]) -> str:
        if len(texts) < 2:
            return texts[0]
        return f"{', '.join(texts[:-1])} and {texts[-1]}"


def write_captions(person: Person, shot: Shot, count: int, seed: int, identity: int, picture: int) -> list[Caption]:
    """Captions of one picture, each as if another person had written it."""
    return [
        _Composer(person, shot, stream(seed, "caption", identity, picture, number)).compose()
        for number in range(count)
    ]


def sample_captions(count: int, seed: int) -> Iterator[str]:
    """Captions of as many different people, for training a tokenizer; no picture is drawn."""
    for identity, person in enumerate(islice(draw_people(seed), count), start=1):
        shot = plan_shot(seed, identity, 0, DEFAULT_HEIGHT)
        yield write_captions(person, shot, 1, seed, identity, 0)[0].text
