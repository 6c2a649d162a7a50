"""The words of the captions: every string that a caption can contain is in these tables.

A noun stands for a set of values: "t-shirt" for one garment, "top" for several. `captions` records that set, so that
a caption's claims can be checked against any person.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["COLOUR_WORDS", "HAIR_WORDS", "NOUNS", "PHRASES", "SLEEVES", "SUBJECTS"]

# attribute value -> words for it, the first ones the most likely.
COLOUR_WORDS: Mapping[str, tuple[str, ...]] = {
    "black": ("black",),
    "white": ("white",),
    "grey": ("gray", "grey"),
    "navy": ("dark blue", "navy blue", "navy"),
    "blue": ("blue", "bright blue"),
    "light blue": ("light blue", "pale blue"),
    "red": ("red", "bright red"),
    "burgundy": ("dark red", "maroon", "burgundy"),
    "pink": ("pink",),
    "orange": ("orange",),
    "yellow": ("yellow", "bright yellow"),
    "green": ("green",),
    "olive": ("olive green", "army green", "olive"),
    "brown": ("brown",),
    "beige": ("beige", "tan", "khaki"),
    "purple": ("purple", "violet"),
}

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "man": ("man", "man", "man", "man", "young man", "guy", "male pedestrian", "male"),
    "woman": ("woman", "woman", "woman", "woman", "young woman", "lady", "female pedestrian", "female"),
    "boy": ("boy", "young boy", "little boy", "boy"),
    "girl": ("girl", "young girl", "little girl", "girl"),
}

_TOPS = ("t-shirt", "polo", "shirt", "blouse", "tank top", "sweater", "hoodie")

# part -> (noun, values it stands for, weight)
NOUNS: Mapping[str, tuple[tuple[str, tuple[str, ...], float], ...]] = {
    "upper": (
        ("t-shirt", ("t-shirt",), 5), ("tee shirt", ("t-shirt",), 1), ("short sleeved t-shirt", ("t-shirt",), 1),
        ("short sleeve shirt", ("t-shirt", "polo"), 1), ("shirt", _TOPS[:5], 0.6), ("top", _TOPS, 0.5),
        ("polo shirt", ("polo",), 4), ("polo", ("polo",), 1), ("collared t-shirt", ("polo",), 1),
        ("shirt", ("shirt",), 3), ("long sleeve shirt", ("shirt",), 3), ("button up shirt", ("shirt",), 2),
        ("long sleeved button down shirt", ("shirt",), 1),
        ("blouse", ("blouse",), 5), ("tank top", ("tank top",), 4), ("sleeveless shirt", ("tank top",), 2),
        ("sweater", ("sweater",), 5), ("long sleeved sweater", ("sweater",), 1), ("pullover", ("sweater",), 1.5),
        ("hoodie", ("hoodie",), 4), ("hooded sweatshirt", ("hoodie",), 2),
        ("jacket", ("jacket",), 5), ("zipped jacket", ("jacket",), 1), ("zip up jacket", ("jacket",), 1),
        ("coat", ("coat",), 3), ("long coat", ("coat",), 3), ("overcoat", ("coat",), 1),
        ("puffy jacket", ("down jacket",), 2), ("down jacket", ("down jacket",), 2),
        ("padded jacket", ("down jacket",), 1),
        ("winter coat", ("down jacket", "coat"), 0.7),
        ("dress", ("dress",), 5), ("knee length dress", ("dress",), 1), ("short dress", ("dress",), 1),
        ("long dress", ("long dress",), 3), ("ankle length dress", ("long dress",), 1),
        ("dress", ("dress", "long dress"), 0.5),
    ),
    "jacket": (
        ("jacket", ("jacket",), 2), ("open jacket", ("jacket",), 3), ("unzipped jacket", ("jacket",), 1),
        ("suit jacket", ("suit jacket",), 3), ("blazer", ("suit jacket",), 3),
        ("cardigan", ("cardigan",), 3), ("open cardigan", ("cardigan",), 1),
        ("denim jacket", ("denim jacket",), 3), ("jean jacket", ("denim jacket",), 1),
        ("vest", ("vest",), 3), ("sleeveless vest", ("vest",), 1),
    ),
    "lower": (
        ("trousers", ("trousers",), 2.5), ("pants", ("trousers",), 4), ("slacks", ("trousers",), 1),
        ("long pants", ("trousers", "track pants"), 0.7), ("pants", ("trousers", "jeans", "track pants"), 0.6),
        ("jeans", ("jeans",), 5), ("denim jeans", ("jeans",), 1), ("denim pants", ("jeans",), 0.7),
        ("shorts", ("shorts",), 5), ("knee length shorts", ("shorts",), 1),
        ("track pants", ("track pants",), 3), ("sweatpants", ("track pants",), 2),
        ("skirt", ("skirt",), 4), ("knee length skirt", ("skirt",), 1), ("short skirt", ("skirt",), 1),
        ("long skirt", ("long skirt",), 4), ("leggings", ("leggings",), 3), ("tights", ("leggings",), 1),
        ("tight pants", ("leggings",), 0.7),
    ),
    "shoes": (
        ("sneakers", ("sneakers",), 4), ("tennis shoes", ("sneakers",), 1.5), ("athletic shoes", ("sneakers",), 1),
        ("running shoes", ("sneakers",), 1), ("shoes", ("sneakers", "dress shoes", "flats"), 3),
        ("dress shoes", ("dress shoes",), 2), ("leather shoes", ("dress shoes",), 2),
        ("boots", ("boots",), 5), ("high boots", ("boots",), 1), ("sandals", ("sandals",), 4),
        ("open shoes", ("sandals",), 0.7),
        ("high heels", ("high heels",), 3), ("heels", ("high heels",), 2), ("flats", ("flats",), 2),
        ("flat shoes", ("flats",), 2),
    ),
    "headwear": (
        ("cap", ("cap",), 3), ("baseball cap", ("cap",), 3), ("hat", ("cap", "beanie", "sun hat"), 1),
        ("beanie", ("beanie",), 3), ("knit hat", ("beanie",), 2), ("knitted cap", ("beanie",), 1),
        ("sun hat", ("sun hat",), 3), ("wide brimmed hat", ("sun hat",), 2),
    ),
    "glasses": (
        ("glasses", ("glasses",), 4), ("eyeglasses", ("glasses",), 1),
        ("sunglasses", ("sunglasses",), 3), ("dark glasses", ("sunglasses",), 1),
    ),
    "bag": (
        ("backpack", ("backpack",), 6), ("book bag", ("backpack",), 0.7), ("rucksack", ("backpack",), 0.5),
        ("bag", ("backpack", "shoulder bag", "handbag", "shopping bag"), 0.4),
        ("shoulder bag", ("shoulder bag",), 4), ("messenger bag", ("shoulder bag",), 1.5),
        ("satchel", ("shoulder bag",), 1),
        ("handbag", ("handbag",), 3), ("purse", ("handbag",), 2), ("hand bag", ("handbag",), 1),
        ("shopping bag", ("shopping bag",), 3), ("plastic bag", ("shopping bag",), 2),
        ("suitcase", ("suitcase",), 3), ("rolling suitcase", ("suitcase",), 1.5), ("trolley case", ("suitcase",), 1),
    ),
    "held": (
        ("phone", ("phone",), 2), ("cell phone", ("phone",), 3), ("mobile phone", ("phone",), 1),
        ("bottle", ("bottle",), 3), ("water bottle", ("bottle",), 2), ("umbrella", ("umbrella",), 3),
        ("folded umbrella", ("umbrella",), 1), ("book", ("book",), 3), ("folder", ("book",), 0.7),
        ("cup", ("cup",), 2), ("paper cup", ("cup",), 1), ("cup of coffee", ("cup",), 1),
    ),
}  # fmt: skip

# hair style -> (phrase, styles it stands for); {c} is the colour, absent for bald heads.
HAIR_WORDS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "short": (("short {c} hair", ("short",)), ("short {c} hair", ("short",)), ("short cropped {c} hair", ("short",))),
    "medium": (("shoulder length {c} hair", ("medium",)), ("medium length {c} hair", ("medium",))),
    "long": (
        ("long {c} hair", ("long",)), ("long loose {c} hair", ("long",)), ("long {c} hair", ("long", "ponytail")),
    ),
    "ponytail": (
        ("{c} hair in a ponytail", ("ponytail",)), ("long {c} hair tied in a ponytail", ("ponytail",)),
        ("a {c} ponytail", ("ponytail",)),
    ),
    "bun": (("{c} hair in a bun", ("bun",)), ("{c} hair tied up in a bun", ("bun",))),
    "bald": (("a bald head", ("bald",)), ("a shaved head", ("bald",))),
    "tied": (("{c} hair pulled back", ("ponytail",)), ("{c} hair tied back", ("ponytail",))),
    "covered": (("{c} hair", ("short", "medium", "long", "ponytail", "bun")),),
}  # fmt: skip

SLEEVES: Mapping[str, str] = {
    **dict.fromkeys(("t-shirt", "polo", "dress", "long dress"), "short"),
    **dict.fromkeys(("shirt", "sweater", "hoodie", "jacket", "coat", "down jacket"), "long"),
}

# purpose -> phrasings; a phrase listed twice is twice as likely. {He}, {he}, {his} follow the subject.
PHRASES: Mapping[str, tuple[str, ...]] = {
    "definite": ("the {subject}", "the {subject}", "this {subject}"),
    "wears": ("is wearing", "is wearing", "wears", "is dressed in", "has on"),
    "wears small": ("is wearing", "wears", "has on"),
    "wearing": ("wearing", "wearing", "dressed in", "in"),
    "carries": ("is carrying", "is carrying", "carries"),
    "has": ("has", "has"),
    "holds": ("is holding", "is holding", "holds"),
    "pair": ("a pair of {x}",),
    "striped": (
        "{c} and {d} striped {n}", "{c} {n} with {d} stripes", "striped {c} and {d} {n}",
        "{c} {n} with {d} horizontal stripes",
    ),
    "checked": (
        "{c} and {d} checkered {n}", "{c} and {d} plaid {n}", "{c} {n} with {a_d} plaid pattern",
        "checked {c} and {d} {n}",
    ),
    "dotted": (
        "{c} {n} with {d} dots", "{c} and {d} polka dot {n}", "{c} {n} with {d} polka dots", "{c} {n} with {d} spots",
    ),
    "logo": (
        "{c} {n} with {a_d} logo", "{c} {n} with {a_d} print on the front", "{c} {n} with {a_d} design on the chest",
    ),
    "contrast sleeves": ("{c} {n} with {d} sleeves", "{c} {n} that has {d} sleeves"),
    "over": ("{jacket} over {upper}", "{jacket} over {upper}", "{upper} under {jacket}"),
    "track": ("{x} with a stripe down the side", "{x} with side stripes"),
    "scarf": ("{c} scarf",),
    "straps": ("the straps of {x}",),
    "backpack": ("on {his} back", "over both shoulders", "on {his} shoulders"),
    "shoulder bag": (
        "over {his} {side} shoulder", "hanging at {his} {side} side", "across {his} body", "at {his} {side} hip",
    ),
    "in hand": ("in {his} {side} hand", "with {his} {side} hand"),
    "suitcase": ("with {his} {side} hand", "on {his} {side} side"),
    "pulls": ("is pulling", "pulls"),
    "build": ("slim", "thin", "heavyset", "stout"),
    "walking front": ("is walking toward the camera", "is walking forward", "walks towards the viewer"),
    "walking back": ("is walking away from the camera", "is walking away", "walks away from the viewer"),
    "walking side": ("is walking to the {turn}", "is walking towards the {turn}"),
    "standing front": ("is standing and facing the camera", "is standing still", "faces the camera"),
    "standing back": (
        "is standing with {his} back to the camera", "is facing away from the camera", "is seen from behind",
    ),
    "standing side": ("is standing and facing {turn}", "is turned to the {turn}"),
    "bowed": ("is looking down", "looks down at the ground"),
    "with": ("{who} with {have}", "{who} with {have}", "{who} who has {have}"),
    "main": ("{who} {wears} {wear}",),
    "main has": ("{who} has {have} and {wears} {wear}",),
    "main doing": (
        "{who} {doing} {wearing} {wear}", "{who} {doing} and {wears} {wear}", "{who} {wearing} {wear} {doing}",
    ),
    "fronted doing": ("wearing {wear}, {who} {doing}", "dressed in {wear}, {who} {doing}"),
    "fronted has": ("wearing {wear}, {who} has {have}", "dressed in {wear}, {who} has {have}"),
    "tail": ("{sentence} and {carries} {x}", "{sentence} while carrying {x}"),
    "tail held": ("{sentence} and {holds} {x}", "{sentence} while holding {x}"),
    "also wears": ("{He} {wears} {x}", "{He} {wears} {x}", "{He} is also wearing {x}", "{He} also has {x} on"),
    "shoes": ("{He} {wears} {x}", "{He} has {x} on {his} feet", "On {his} feet {he} wears {x}"),
    "lower": ("{He} {wears} {x}", "{He} has {x} on"),
    "also has": ("{He} has {x}", "{He} has {x}", "The {subject} has {x}"),
    "also carries": ("{He} {carries} {x}", "{He} {carries} {x}", "The {subject} {carries} {x}"),
    "also holds": ("{He} {holds} {x}",),
    "also does": ("{He} {x}", "{He} {x}", "The {subject} {x}"),
    "empty handed": ("{His} hands are empty", "{He} is not carrying anything", "The {subject} has no bag"),
    "slim build": ("{He} is rather thin", "{He} appears to be of slim build"),
    "average build": ("{He} is of average build", "{He} appears to be of medium build"),
    "heavy build": ("{He} is somewhat heavy", "{He} appears to be of heavy build"),
    "stepping": (
        "{His} {side} leg is in front of the {other} one",
        "{He} is stepping forward with {his} {side} foot",
        "{His} {side} foot is ahead while the {other} one is behind {him}",
    ),
    "short sleeves": ("The sleeves are short and leave {his} arms bare", "{His} forearms are bare"),
    "long sleeves": ("The sleeves are long and reach {his} wrists", "Long sleeves cover {his} arms"),
    "joins": ("{x} and {y}", "{x} with {y}"),
}  # fmt: skip
