"""Train the detector of drawn people: `python train.py -o weights.pt`.

Streets are drawn on all cores, then the network learns from their frames, on the GPU where there is one. Besides
this project it needs PyTorch.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measure import measure
from network import STRIDE, Detector, cell_centres
from numpy.typing import NDArray
from scenes import FILL, Example, draw_streets, padded
from torch import Tensor
from torch.nn import functional as F

FIRST_SEED, FIRST_UNSEEN_SEED = 100_000, 900_000
"""Of the streets to learn from, and of those to measure on."""
_SEEN, _IGNORED = 0.25, 0.1
"""A person is to be found from this visibility on; from the second to the first neither right nor wrong."""
_LEAST_HEIGHT = 14.0
"""In pixels of the input."""


def targets(boxes: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """What the cells of one batch should say.

    Args:
        boxes: [batch, people, 5]: corners in pixels, and the visibility, 0 where nobody is.
        height: Of the input.
        width: Of the input.

    Returns:
        Which person each cell predicts [batch, cells], whether it does [batch, cells], and which cells the score's
        loss leaves out [batch, cells].
    """
    centres = cell_centres(height, width).to(boxes.device)
    middle = (boxes[..., :2] + boxes[..., 2:4]) / 2
    size = boxes[..., 2:4] - boxes[..., :2]
    # A cell predicts a person whose middle fifth it is in, or whose middle it holds.
    reach = (0.2 * size).clamp(min=0.6 * STRIDE)
    apart = (centres[None, :, None] - middle[:, None]).abs()
    inside = (apart < reach[:, None]).all(dim=-1) & (boxes[:, None, :, 4] > 0)
    seen = (boxes[..., 4] >= _SEEN) & (size[..., 1] >= _LEAST_HEIGHT)
    distance = (apart / size[:, None].clamp(min=1)).square().sum(dim=-1)
    distance = distance.masked_fill(~(inside & seen[:, None]), torch.inf)
    nearest = distance.argmin(dim=-1)
    positive = distance.amin(dim=-1).isfinite()
    unclear = inside & ~seen[:, None] & (boxes[:, None, :, 4] >= _IGNORED)
    return nearest, positive, unclear.any(dim=-1) & ~positive


def generalised_iou(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU of pairs of boxes [..., 4] (Rezatofighi et al., 2019)."""
    low, high = torch.maximum(one[..., :2], other[..., :2]), torch.minimum(one[..., 2:], other[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    union = (one[..., 2:] - one[..., :2]).prod(dim=-1) + (other[..., 2:] - other[..., :2]).prod(dim=-1) - shared
    low, high = torch.minimum(one[..., :2], other[..., :2]), torch.maximum(one[..., 2:], other[..., 2:])
    hull = (high - low).prod(dim=-1)
    iou = shared / union.clamp(min=1e-6)
    return iou, iou - (hull - union) / hull.clamp(min=1e-6)


def loss_of(network: Detector, pixels: Tensor, boxes: Tensor) -> Tensor:
    """Quality focal loss of the scores (Li et al., 2020: the target is the box's own IoU) and GIoU of the boxes."""
    logits, found = network.predict(pixels)
    nearest, positive, unclear = targets(boxes, pixels.shape[1], pixels.shape[2])
    wanted = boxes[..., :4].gather(1, nearest[..., None].expand(-1, -1, 4))
    iou, giou = generalised_iou(found, wanted)
    target = torch.where(positive, iou.detach(), torch.zeros_like(iou))
    focus = (target - logits.sigmoid()).detach().abs().square()
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * focus
    count = positive.sum().clamp(min=1)
    return score[~unclear].sum() / count + 2 * ((1 - giou) * positive).sum() / count


def varied(pixels: Tensor, boxes: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Mirror, scale, shift and recolour a batch: the same scale for all, other colours for each."""
    boxes = boxes.clone()
    height, width = pixels.shape[1:3]
    if rng.random() < 0.5:
        pixels = pixels.flip(2)
        boxes[..., [0, 2]] = width - boxes[..., [2, 0]]
    x = pixels.permute(0, 3, 1, 2).float()
    scale = float(rng.uniform(0.75, 1.4))
    x = F.interpolate(x, scale_factor=scale, mode="bilinear", antialias=scale < 1)
    x = F.pad(x, (0, max(0, width - x.shape[3]), 0, max(0, height - x.shape[2])), value=FILL)
    top, left = (int(rng.integers(0, 1 + x.shape[axis] - want)) for axis, want in ((2, height), (3, width)))
    x = x[:, :, top : top + height, left : left + width]
    shift = torch.tensor([left, top, left, top], device=x.device)
    whole = boxes[..., :4] * scale - shift
    limit = torch.tensor([width, height, width, height], device=x.device)
    inside = torch.minimum(whole.clamp(min=0), limit)
    area = [(b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (inside, whole)]
    boxes = torch.cat((inside, boxes[..., 4:] * (area[0] / area[1].clamp(min=1))[..., None]), dim=-1)
    gains = torch.as_tensor(rng.uniform(0.75, 1.2, (len(x), 3, 1, 1)), dtype=torch.float32, device=x.device)
    level = torch.as_tensor(rng.uniform(0.6, 1.25, (len(x), 1, 1, 1)), dtype=torch.float32, device=x.device)
    return (x * gains * level).clamp(0, 255).byte().permute(0, 2, 3, 1), boxes


def train(pixels: Tensor, boxes: Tensor, steps: int, batch: int, deadline: float) -> Detector:
    """Learn from all frames, uint8 [n, h, w, 3] and [n, people, 5]; the rate falls by the part of the work done."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = Detector().to(pixels.device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-3)
    started = time.monotonic()
    for step in range(steps):
        part = max(step / steps, (time.monotonic() - started) / deadline)
        if part >= 1:
            break
        rate = 3e-3 * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * part))
        optimizer.param_groups[0]["lr"] = rate
        chosen = torch.as_tensor(rng.integers(0, len(pixels), batch), device=pixels.device)
        loss = loss_of(network, *varied(pixels[chosen], boxes[chosen], rng))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {loss.item():.3f}, {time.monotonic() - started:.0f} s", flush=True)
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the detector of drawn people.")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--streets", type=int, default=260, help="each with three cameras, 16 frames of each")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--drawing", type=float, default=600, help="at most so many seconds of drawing")
    parser.add_argument("--learning", type=float, default=600, help="at most so many seconds of learning")
    args = parser.parse_args()
    started = time.monotonic()
    unseen, *streets = draw(range(FIRST_SEED, FIRST_SEED + args.streets), args.drawing)
    print(f"{16 * 3 * len(streets)} frames drawn in {time.monotonic() - started:.0f} s", flush=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pixels, boxes = (
        torch.from_numpy(array).to(device) for array in padded([e for street in streets for e in street])
    )
    network = train(pixels, boxes, args.steps, args.batch, args.learning)
    torch.save({name: value.cpu() for name, value in network.state_dict().items()}, args.output)
    print(measure(partial(_detect, network, device), unseen))


def draw(seeds: range, seconds: float) -> list[list[Example]]:
    """Four unseen streets in one, then those of the seeds, as far as the time reaches."""
    deadline = time.monotonic() + seconds
    unseen = range(FIRST_UNSEEN_SEED, FIRST_UNSEEN_SEED + 4)
    streets: list[list[Example]] = []
    for street in draw_streets([*unseen, *seeds]):
        streets.append(street)
        if time.monotonic() > deadline and len(streets) > len(unseen):
            break
    held, learned = streets[: len(unseen)], streets[len(unseen) :]
    return [[example for street in held for example in street], *learned]


@torch.no_grad()
def _detect(network: Detector, device: torch.device, frames: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    return [output.cpu().numpy() for output in network(torch.from_numpy(frames).to(device))]


if __name__ == "__main__":
    main()
