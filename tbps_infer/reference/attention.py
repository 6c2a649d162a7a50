"""Pre-LayerNorm attention blocks of the reference model, written so that they export to plain operators."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tbps_infer.reference.config import ModelConfig

__all__ = ["Attention", "DecoderLayer", "EncoderLayer", "FeedForward", "l2_normalize", "split_heads"]


class Attention(nn.Module):
    """Multi-head scaled dot-product attention (Vaswani et al. 2017, section 3.2).

    With `over_queries` the softmax runs over the queries, which compete for every memory cell; each one's weights are
    then divided by their sum over the memory (slot attention, Locatello et al. 2020).
    """

    def __init__(self, dim: int, heads: int, sharpness: float = 1.0, over_queries: bool = False) -> None:
        super().__init__()
        self.heads = heads
        self.scale = sharpness * (dim // heads) ** -0.5
        self.over_queries = over_queries
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Attend from ``queries [batch, q, dim]`` to ``memory [batch, m, dim]``.

        Args:
            queries: Float ``[batch, q, dim]``.
            memory: Float ``[batch, m, dim]``.
            mask: Added to the scores, broadcast to ``[batch, heads, q, m]``.

        Returns:
            The attended values ``[batch, q, dim]`` and the weights ``[batch, heads, q, m]``.
        """
        query = split_heads(self.query(queries), self.heads) * self.scale
        scores = query @ split_heads(self.key(memory), self.heads).transpose(2, 3)
        weights = _over_queries(scores, mask) if self.over_queries else _over_memory(scores, mask)
        values = weights @ split_heads(self.value(memory), self.heads)
        merged: Tensor = self.out(values.transpose(1, 2).flatten(2))
        return merged, weights


def _over_memory(scores: Tensor, mask: Tensor | None) -> Tensor:
    return (scores if mask is None else scores + mask).softmax(dim=-1)


def _over_queries(scores: Tensor, mask: Tensor | None) -> Tensor:
    shares = scores.softmax(dim=-2)
    if mask is not None:
        shares = shares * (mask >= 0).to(shares.dtype)
    return shares / (shares.sum(dim=-1, keepdim=True) + 1e-4)  # FP16 has no smaller number with full precision


class FeedForward(nn.Sequential):
    """Two linear layers with a GELU between them."""

    def __init__(self, dim: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each on normalised input and added back."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """``[batch, length, dim]`` to the same shape."""
        normed = self.attention_norm(tokens)
        tokens = tokens + self.dropout(self.attention(normed, normed, mask)[0])
        refined: Tensor = tokens + self.dropout(self.ffn(self.ffn_norm(tokens)))
        return refined


class DecoderLayer(nn.Module):
    """Token self-attention, cross-attention to a memory, feed-forward: each pre-normalised and added back.

    The self-attention may come after the memory was read, or be left out: before it, all tokens add the same mean of
    their neighbours, and then ask the memory nearly the same question.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, heads, hidden, dropout = config.dim, config.heads, config.ffn, config.dropout
        self.token_attention = config.token_attention
        if config.token_attention != "none":
            self.self_norm = nn.LayerNorm(dim)
            self.self_attention = Attention(dim, heads)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, heads, config.sharpness, config.attention_over == "tokens")
        self.ffn_norm = nn.LayerNorm(dim)
        self.ffn = FeedForward(dim, hidden, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Refine ``tokens [batch, q, dim]`` by ``memory [batch, m, dim]``.

        Returns:
            The tokens ``[batch, q, dim]`` and the cross-attention weights ``[batch, heads, q, m]``.
        """
        if self.token_attention == "before":
            tokens = self._among_tokens(tokens)
        attended, weights = self.cross_attention(self.cross_norm(tokens), memory, mask)
        tokens = tokens + self.dropout(attended)
        if self.token_attention == "after":
            tokens = self._among_tokens(tokens)
        return tokens + self.dropout(self.ffn(self.ffn_norm(tokens))), weights

    def _among_tokens(self, tokens: Tensor) -> Tensor:
        normed = self.self_norm(tokens)
        mixed: Tensor = tokens + self.dropout(self.self_attention(normed, normed)[0])
        return mixed


def split_heads(tokens: Tensor, heads: int) -> Tensor:
    """``[batch, length, dim]`` to ``[batch, heads, length, dim / heads]``."""
    batch, length, dim = tokens.shape
    return tokens.view(batch, length, heads, dim // heads).transpose(1, 2)


def l2_normalize(vectors: Tensor, epsilon: float = 1e-12) -> Tensor:
    """Divide by the Euclidean norm over the last axis: x / √(Σx² + ε)."""
    return vectors * torch.rsqrt((vectors * vectors).sum(dim=-1, keepdim=True) + epsilon)
