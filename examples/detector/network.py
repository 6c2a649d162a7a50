"""A small convolutional network that finds drawn people: one prediction per cell of 8 by 8 pixels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

STRIDE = 8
"""Pixels of the input, down and across, that one cell stands for."""
_WIDTHS = (16, 32, 64, 96, 128)


class Block(nn.Module):
    """A depthwise convolution with a wide view, mixed over channels, beside a way past both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 5, padding=2, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.widen = nn.Conv2d(width, 2 * width, 1)
        self.narrow = nn.Conv2d(2 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(F.relu(self.widen(self.norm(self.spread(x)))))


def _halved(inside: int, outside: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(inside, outside, kernel, stride=2, padding=(kernel - 1) // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outside), nn.ReLU())


class Detector(nn.Module):
    """Pixels to boxes and scores; `predict` gives what the loss compares."""

    def __init__(self) -> None:
        super().__init__()
        a, b, c, d, e = _WIDTHS
        self.stem = nn.Sequential(_halved(3, a, 3), _halved(a, b, 3), Block(b))
        self.cells = nn.Sequential(_halved(b, c, 2), Block(c), Block(c))
        self.middle = nn.Sequential(_halved(c, d, 2), Block(d), Block(d), Block(d))
        self.wide = nn.Sequential(_halved(d, e, 2), Block(e), Block(e))
        self.from_wide = nn.Conv2d(e, d, 1)
        self.from_middle = nn.Conv2d(d, c, 1)
        self.head = nn.Sequential(Block(c), Block(c), nn.BatchNorm2d(c), nn.Conv2d(c, 5, 1))
        # Few cells hold a person: begin with low scores, and with boxes of about a person's shape.
        with torch.no_grad():
            self.head[-1].bias.copy_(torch.tensor([-4.0, 0.0, 1.2, 0.0, 1.2]))

    def predict(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [batch, cells] and boxes [batch, cells, 4] (x0, y0, x1, y1 in pixels) for uint8 [batch, h, w, 3]."""
        x = pixels.permute(0, 3, 1, 2).float() / 255 - 0.5
        cells = self.cells(self.stem(x))
        middle = self.middle(cells)
        middle = middle + F.interpolate(self.from_wide(self.wide(middle)), scale_factor=2.0)
        raw = self.head(cells + F.interpolate(self.from_middle(middle), scale_factor=2.0))
        raw = raw.flatten(2).transpose(1, 2)
        reach = STRIDE * torch.exp(raw[..., 1:].clamp(max=4.0))
        centres = cell_centres(pixels.shape[1], pixels.shape[2]).to(raw.device)
        return raw[..., 0], torch.cat((centres - reach[..., :2], centres + reach[..., 2:]), dim=-1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores, as `boxes-scores` of a detector's file wants them."""
        logits, boxes = self.predict(pixels)
        return boxes, logits.sigmoid()


def cell_centres(height: int, width: int) -> Tensor:
    """The middle of every cell, float32 [cells, 2] as (x, y) in pixels, row by row."""
    y, x = torch.meshgrid(torch.arange(height // STRIDE), torch.arange(width // STRIDE), indexing="ij")
    return (torch.stack((x, y), dim=-1).reshape(-1, 2) + 0.5) * STRIDE
