"""Noun phrases: each part of a person in words, together with what those words claim."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

from tbps_infer.data.synth.attributes import NONE, Person
from tbps_infer.data.synth.lexicon import COLOUR_WORDS, HAIR_WORDS, NOUNS, PHRASES
from tbps_infer.data.synth.visibility import Visible

__all__ = ["Claim", "Namer", "Phrase", "agrees", "with_article"]

Claim = frozenset[tuple[str, str]]
"""One thing a caption says: true of a person who has any of these (attribute, value) pairs."""

_PLURAL_LOWER = frozenset({"trousers", "jeans", "shorts", "track pants", "leggings"})
_HAIR_COLOUR_WORDS = {
    "black": (("black", ("black",)), ("black", ("black",)), ("dark", ("black", "brown"))),
    "brown": (("brown", ("brown",)), ("brown", ("brown",)), ("dark brown", ("brown",))),
    "blonde": (("blonde", ("blonde",)), ("blond", ("blonde",))),
    "grey": (("gray", ("grey",)), ("grey", ("grey",))),
    "red": (("red", ("red",)), ("ginger", ("red",))),
}


@dataclass(frozen=True)
class Phrase:
    """Words and what they claim."""

    text: str
    claims: tuple[Claim, ...]

    @property
    def words(self) -> int:
        """How many words it has."""
        return len(self.text.split())


def agrees(claim: Claim, person: Person) -> bool:
    """Whether a claim is true of a person."""
    return any(getattr(person, attribute) == value for attribute, value in claim)


def with_article(text: str) -> str:
    """The phrase behind "a" or "an"."""
    return f"an {text}" if text[0] in "aeiou" else f"a {text}"


def _claim(attributes: Iterable[str], values: Iterable[str]) -> Claim:
    options = tuple(values)
    return frozenset((attribute, value) for attribute in attributes for value in options)


class Namer:
    """Names the parts of one person as one shot shows them, with words drawn from `rng`."""

    def __init__(self, person: Person, seen: Visible, rng: Random) -> None:
        self.person = person
        self.seen = seen
        self.rng = rng

    def say(self, purpose: str, **parts: str) -> str:
        """One phrasing for a purpose, filled in."""
        return self.rng.choice(PHRASES[purpose]).format(**parts)

    def colour(self, value: str) -> str:
        """A word for a colour."""
        words = COLOUR_WORDS[value]
        return words[0] if self.rng.random() < 0.6 else self.rng.choice(words)

    def noun(self, part: str, value: str) -> tuple[str, tuple[str, ...]]:
        """A word for a value, and all values it could stand for."""
        known = [(word, values, weight) for word, values, weight in NOUNS[part] if value in values]
        word, values, _ = self.rng.choices(known, [weight for _, _, weight in known])[0]
        return word, values

    def _coloured(self, part: str, keep: float = 0.95) -> tuple[str, list[Claim]]:
        """Colour and noun of a part without article, e.g. "red cap"; the colour is left out now and then."""
        value: str = getattr(self.person, part)
        word, values = self.noun(part, value)
        claims = [_claim([part], values)]
        if self.rng.random() > keep:
            return word, claims
        colour: str = getattr(self.person, f"{part}_colour")
        claims.append(_claim([f"{part}_colour"], [colour]))
        return f"{self.colour(colour)} {word}", claims

    def upper(self) -> Phrase:
        """The upper garment or dress, with its pattern when that is seen and named."""
        p = self.person
        word, values = self.noun("upper", p.upper)
        claims = [_claim(["upper"], values), _claim(["upper_colour"], [p.upper_colour])]
        colour = self.colour(p.upper_colour)
        hidden = p.pattern == "plain" or (p.pattern == "logo" and not self.seen.chest)
        if hidden or (p.pattern == "contrast sleeves" and p.jacket != NONE) or self.rng.random() < 0.12:
            return Phrase(with_article(f"{colour} {word}"), tuple(claims))
        claims += [_claim(["pattern"], [p.pattern]), _claim(["pattern_colour"], [p.pattern_colour])]
        second = self.colour(p.pattern_colour)
        text = self.say(p.pattern, c=colour, d=second, a_d=with_article(second), n=word)
        return Phrase(with_article(text), tuple(claims))

    def outer(self) -> Phrase:
        """What covers the torso: an open jacket with or without the shirt below it, else the upper garment."""
        p = self.person
        if p.jacket == NONE:
            return self.upper()
        if not self.seen.chest:
            # From behind an open jacket looks like a closed one.
            kinds = {"jacket": ("jacket",), "suit jacket": ("suit jacket", "blazer")}.get(p.jacket)
            word, values = self.noun("jacket", p.jacket)
            if kinds is not None:
                word, values = self.rng.choice(kinds), (p.jacket,)
            colour = self.colour(p.jacket_colour)
            pairs = _claim(["jacket"], values) | (_claim(["upper"], ["jacket"]) if word == "jacket" else frozenset())
            tint = _claim(["jacket_colour", "upper_colour"], [p.jacket_colour])
            return Phrase(with_article(f"{colour} {word.removeprefix('open ')}"), (pairs, tint))
        text, claims = self._coloured("jacket")
        if self.rng.random() < 0.1:
            return Phrase(with_article(text), tuple(claims))
        upper = self.upper()
        joined = self.say("over", jacket=with_article(text), upper=upper.text)
        return Phrase(joined, (*claims, *upper.claims))

    def lower(self) -> Phrase | None:
        """Trousers, shorts or a skirt; None below a dress."""
        if self.person.lower == NONE:
            return None
        text, claims = self._coloured("lower", 0.97)
        if self.person.lower not in _PLURAL_LOWER:
            return Phrase(with_article(text), tuple(claims))
        if self.person.lower == "track pants" and self.rng.random() < 0.4:
            text = self.say("track", x=text)
            claims.append(_claim(["lower"], ["track pants"]))
        if self.rng.random() < 0.16:
            text = self.say("pair", x=text)
        return Phrase(text, tuple(claims))

    def shoes(self) -> Phrase | None:
        """Shoes, when the picture shows them."""
        if not self.seen.feet:
            return None
        text, claims = self._coloured("shoes", 0.93)
        if self.rng.random() < 0.1:
            text = self.say("pair", x=text)
        return Phrase(text, tuple(claims))

    def headwear(self) -> Phrase | None:
        """A hat."""
        if self.person.headwear == NONE:
            return None
        text, claims = self._coloured("headwear", 0.9)
        return Phrase(with_article(text), tuple(claims))

    def scarf(self) -> Phrase | None:
        """A scarf."""
        colour = self.person.scarf_colour
        if colour == NONE:
            return None
        return Phrase(with_article(self.say("scarf", c=self.colour(colour))), (_claim(["scarf_colour"], [colour]),))

    def glasses(self) -> Phrase | None:
        """Glasses, when the face is seen."""
        if self.person.glasses == NONE or not self.seen.face:
            return None
        word, values = self.noun("glasses", self.person.glasses)
        return Phrase(word, (_claim(["glasses"], values),))

    def hair(self) -> Phrase | None:
        """Length, style and colour of the hair as far as they are seen."""
        if self.seen.hair == "none":
            return None
        style = self.person.hair_style if self.seen.hair == "all" else self.seen.hair
        template, styles = self.rng.choice(HAIR_WORDS[style])
        claims = [_claim(["hair_style"], styles)]
        if self.person.hair_colour == NONE:
            return Phrase(template, tuple(claims))
        word, colours = self.rng.choice(_HAIR_COLOUR_WORDS[self.person.hair_colour])
        claims.append(_claim(["hair_colour"], colours))
        return Phrase(template.format(c=word), tuple(claims))

    def bag(self, his: str) -> Phrase | None:
        """A bag and often where it is; from the front only a backpack's straps."""
        p = self.person
        if self.seen.bag == "none":
            return None
        text, claims = self._coloured("bag", 0.93)
        if self.seen.bag == "straps":
            return Phrase(self.say("straps", x=with_article(text)), tuple(claims))
        if self.rng.random() < 0.45:
            where = {"backpack": "backpack", "shoulder bag": "shoulder bag", "suitcase": "suitcase"}.get(
                p.bag, "in hand"
            )
            place = self.say(where, his=his, side=p.bag_side)
            text = f"{text} {place}"
            if p.bag_side in place:
                claims.append(_claim(["bag_side"], [p.bag_side]))
        return Phrase(with_article(text), tuple(claims))

    def held(self, his: str) -> Phrase | None:
        """The thing in the hand and often in which one."""
        p = self.person
        if not self.seen.held:
            return None
        text, claims = self._coloured("held", 0.7 if p.held != "phone" else 0.15)
        if self.rng.random() < 0.55:
            text = f"{text} {self.say('in hand', his=his, side=p.held_side)}"
            claims.append(_claim(["held_side"], [p.held_side]))
        return Phrase(with_article(text), tuple(claims))
