"""Networks that attend to the rows or the patches of an image."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, HEADS = 16, 2


class Tokens(nn.Module):
    """Embeds the rows, (batch, tokens, width), lets `mixed` mix them, and classifies their mean."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.embed, self.head = nn.Linear(self.side, WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.mixed(self.embed(x.view(-1, self.side, self.side))).mean(1))
        return logits

    def mixed(self, tokens: Tensor) -> Tensor:
        raise NotImplementedError


class EncoderLayer(Tokens):
    """A transformer encoder layer of torch, normalised behind."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.layer(tokens)


class Encoder(Tokens):
    """Two encoder layers with GELU, normalised first, and positions that are learned."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, activation="gelu", norm_first=True, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.positions = nn.Parameter(torch.randn(1, self.side, WIDTH) * 0.02)

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.encoder(tokens + self.positions)


class DecoderLayer(Tokens):
    """A transformer decoder layer: learned queries attend to the rows."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.layer = nn.TransformerDecoderLayer(WIDTH, HEADS, 32, batch_first=True)
        self.queries = nn.Parameter(torch.randn(1, 4, WIDTH))

    def mixed(self, tokens: Tensor) -> Tensor:
        return self.layer(self.queries.expand(tokens.size(0), -1, -1), tokens)


class Attention(Tokens):
    """nn.MultiheadAttention and a residual."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)

    def mixed(self, tokens: Tensor) -> Tensor:
        return tokens + self.attention(tokens, tokens, tokens, need_weights=False)[0]


class CrossAttention(Tokens):
    """nn.MultiheadAttention whose keys have another width than its queries."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, kdim=8, vdim=8, batch_first=True)
        self.query = nn.Parameter(torch.randn(1, 1, WIDTH))

    def mixed(self, tokens: Tensor) -> Tensor:
        keys = tokens[..., :8]
        return self.attention(self.query.expand(tokens.size(0), -1, -1), keys, keys)[0]


class OwnAttention(Tokens):
    """Attention written out: three Linear layers, two products, a softmax."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def mixed(self, tokens: Tensor) -> Tensor:
        scores = self.query(tokens) @ self.key(tokens).transpose(-2, -1) / math.sqrt(WIDTH)
        return tokens + self.out(scores.softmax(-1) @ self.value(tokens))


class OwnHeads(Tokens):
    """Attention written out with heads: one projection for all, reshaped and permuted."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def mixed(self, tokens: Tensor) -> Tensor:
        parts = self.qkv(self.norm(tokens)).reshape(-1, self.side, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        weights = (query @ key.transpose(-2, -1) * (WIDTH // HEADS) ** -0.5).softmax(-1)
        return tokens + self.out((weights @ value).transpose(1, 2).reshape(-1, self.side, WIDTH))


class FusedAttention(Tokens):
    """F.scaled_dot_product_attention between Linear layers."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def mixed(self, tokens: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.query(tokens), self.key(tokens), self.value(tokens))


class CausalAttention(Tokens):
    """Attention with a mask of -inf that is a buffer."""

    mask: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.register_buffer("mask", torch.full((self.side, self.side), -math.inf).triu(1))

    def mixed(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, -1)
        scores = query @ key.transpose(-2, -1) / math.sqrt(WIDTH) + self.mask
        return scores.softmax(-1) @ value


class EinsumAttention(Tokens):
    """Attention whose products are einsum."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(inputs, classes)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def mixed(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).chunk(3, -1)
        return torch.einsum("bij,bjd->bid", torch.einsum("bid,bjd->bij", query, key).softmax(-1), value)


class VisionTransformer(nn.Module):
    """Patches by a convolution, a class token, an encoder layer, a head on the class token."""

    takes = ("image",)

    def __init__(self, inputs: tuple, classes: int) -> None:
        super().__init__()
        channels, height, width = inputs[0].shape
        self.patches = nn.Conv2d(channels, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.positions = nn.Parameter(torch.randn(1, 1 + (height // 4) * (width // 4), WIDTH) * 0.02)
        self.layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 32, batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, classes)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(x.size(0), -1, -1), patches], 1) + self.positions
        return self.head(self.norm(self.layer(tokens))[:, 0])


class Mixer(nn.Module):
    """Linear layers over the tokens and over their features in turn, without attention."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.side = math.isqrt(inputs)
        self.over_tokens = nn.Sequential(nn.LayerNorm(self.side), nn.Linear(self.side, self.side), nn.GELU())
        self.over_features = nn.Sequential(nn.LayerNorm(self.side), nn.Linear(self.side, self.side), nn.GELU())
        self.head = nn.Linear(self.side, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, self.side, self.side)
        x = x + self.over_tokens(x.transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.over_features(x)).mean(1))
