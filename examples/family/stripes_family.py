"""A family of one's own: the colours of six stripes against a bag of words, from checkpoints that a script wrote."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tbps_infer.families.clip import PixelScale
from tbps_infer.families.family import DualEncoder, Family, Plan, prefixed
from tbps_infer.families.files import CheckpointFile
from tbps_infer.families.options import LoadOptions
from tbps_infer.layout import Segment, VectorLayout
from tbps_infer.preprocessing import Preprocessing


class Stripes(DualEncoder):
    def __init__(self, facts: Preprocessing, vocab: int, dim: int) -> None:
        super().__init__()
        self.pixels = PixelScale(facts)
        self.colours = nn.Linear(3 * 6, dim)
        self.words = nn.Embedding(vocab, dim)

    def encode_image(self, pixels: Tensor) -> Tensor:
        stripes = self.pixels(pixels).unflatten(2, (6, -1)).mean(dim=(3, 4))
        return F.normalize(self.colours(stripes.flatten(1)))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return F.normalize((self.words(input_ids) * attention_mask[:, :, None]).sum(dim=1))


def plan(file: CheckpointFile, options: LoadOptions) -> Plan:
    vocab, dim = file.shape("txt.weight", 2)
    facts = Preprocessing(image_size=options.image_size or (96, 32))
    network = Stripes(facts, vocab, dim)
    return Plan(
        network=network,
        table=prefixed(network, {"colours": "img.", "words": "txt."}),
        droppable=("head.",),
        config={"dim": dim},
        preprocessing=facts,
        caption_rule="none",
        max_length=options.max_length or 32,
        layout=VectorLayout((Segment("global", dim),)),
        tokenizer="file",
        vocab=vocab,
    )


STRIPES = Family("stripes", ("img.weight", "txt.weight"), plan, ("image_size", "max_length", "tokenizer", "drop"))
