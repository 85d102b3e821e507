# mypy: allow-subclassing-any
"""The acoustic model: phoneme ids to durations, and to the vocoder's parameters.

1.05 million weights. An encoder of ConvNeXt blocks and two self-attentions reads the tokens; a head
says how long each lasts; its encoding is repeated that often, and a decoder of ConvNeXt blocks
says what is heard. No adversary, no diffusion: the teacher is smooth and an L1 loss reaches it.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from tools.voice.dataset import CEPSTRA

LOG_F0, VOICING, CUTOFF = CEPSTRA, CEPSTRA + 1, CEPSTRA + 2
"""Columns of a frame's parameters, after the mel-cepstrum."""

OUTPUTS = CEPSTRA + 3

IDS = 166
"""Phoneme ids of Piper's default map."""

WIDTH = 128
POSITION_FEATURES = 8


def sinusoids(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Where in the sentence each token is, as in Vaswani et al. 2017, float32 [count, width]."""
    place = torch.arange(count, device=device, dtype=torch.float32)[:, None]
    rate = torch.exp(
        torch.arange(0, width, 2, device=device, dtype=torch.float32) * (-math.log(10000.0) / width)
    )
    return torch.cat([torch.sin(place * rate), torch.cos(place * rate)], 1)


class DepthwiseConv(nn.Module):
    """A convolution along time, each channel for itself, [batch, time, channels].

    Trains as shifted multiply-adds, twice as fast on a CPU as a grouped `Conv1d`; exports as one
    `Conv`.
    """

    def __init__(self, width: int, taps: int, dilation: int = 1):
        super().__init__()
        self.taps = taps
        self.dilation = dilation
        self.weight = nn.Parameter(torch.randn(taps, width) * (1 / taps**0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; the length stays the same."""
        reach = self.dilation * (self.taps // 2)
        if torch.onnx.is_in_onnx_export():
            y = functional.conv1d(
                x.transpose(1, 2),
                self.weight.t()[:, None],
                self.bias,
                padding=reach,
                dilation=self.dilation,
                groups=self.weight.shape[1],
            )
            return y.transpose(1, 2)
        length = x.shape[1]
        padded = functional.pad(x, (0, 0, reach, reach))
        y = padded[:, :length] * self.weight[0] + self.bias
        for tap in range(1, self.taps):
            start = tap * self.dilation
            y = torch.addcmul(y, padded[:, start : start + length], self.weight[tap])
        return y


class ConvBlock(nn.Module):
    """A ConvNeXt block (Liu et al. 2022) along time: mix time, then channels, and add."""

    def __init__(self, width: int, taps: int, growth: int, dilation: int = 1):
        super().__init__()
        self.time = DepthwiseConv(width, taps, dilation)
        self.norm = nn.LayerNorm(width)
        self.grow = nn.Linear(width, width * growth)
        self.shrink = nn.Linear(width * growth, width)
        nn.init.normal_(self.shrink.weight, std=0.01)
        nn.init.zeros_(self.shrink.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, time, width]; `mask` [batch, time, 1] is 0 past each item's end."""
        y = self.norm(self.time(x * mask))
        return x + self.shrink(functional.silu(self.grow(y)))


class SelfAttention(nn.Module):
    """Each token looks at the whole sentence."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        nn.init.normal_(self.output.weight, std=0.01)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """[batch, time, width]; `mask` [batch, time, 1] is 0 past each item's end."""
        batch, length, width = x.shape
        size = width // self.heads
        parts = self.project(self.norm(x)).view(batch, length, 3, self.heads, size)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        score = (query @ key.transpose(-1, -2)) / math.sqrt(size)
        score = score + (mask[:, None, None, :, 0] - 1) * 1e4
        mixed = (score.softmax(-1) @ value).transpose(1, 2).reshape(batch, length, width)
        return x + self.output(mixed)


class AcousticModel(nn.Module):
    """Phoneme ids to durations and frame parameters.

    Attributes:
        mean: What an output of 0 stands for, float32 [OUTPUTS].
        std: What an output of 1 is worth, float32 [OUTPUTS].
    """

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(IDS, WIDTH)
        self.encoder = nn.ModuleList([ConvBlock(WIDTH, 5, 3) for _ in range(4)])
        self.attention = nn.ModuleList([SelfAttention(WIDTH) for _ in range(2)])
        self.duration_block = ConvBlock(WIDTH, 5, 2)
        self.duration_output = nn.Linear(WIDTH, 1)
        self.decoder_input = nn.Linear(WIDTH + POSITION_FEATURES, WIDTH)
        self.decoder = nn.ModuleList(
            [ConvBlock(WIDTH, 7, 2, dilation) for dilation in (1, 1, 2, 2, 4, 1)]
        )
        self.output_norm = nn.LayerNorm(WIDTH)
        self.output = nn.Linear(WIDTH, 2 * OUTPUTS)
        self.register_buffer("mean", torch.zeros(OUTPUTS))
        self.register_buffer("std", torch.ones(OUTPUTS))

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Read the tokens.

        Args:
            ids: int64 [batch, N].
            mask: 1 for a token, 0 past the end, float32 [batch, N, 1].

        Returns:
            float32 [batch, N, WIDTH].
        """
        places = sinusoids(ids.shape[1], WIDTH, ids.device)[None]
        x = self.embedding(ids) * 3 + 0.5 * places
        for index, block in enumerate(self.encoder):
            x = block(x, mask)
            if index % 2:
                x = self.attention[index // 2](x, mask)
        return x

    def log_durations(self, encoded: Tensor, mask: Tensor) -> Tensor:
        """How long each token lasts, as log(1 + frames of 10 ms), float32 [batch, N].

        Its gradient stops here: durations are learned from what the sounds make of the encoder.
        """
        return self.duration_output(self.duration_block(encoded.detach(), mask))[..., 0]

    @staticmethod
    def position_features(frame: Tensor, start: Tensor, duration: Tensor) -> Tensor:
        """Where in its token a frame lies.

        Args:
            frame: Index of the frame, any shape.
            start: Index of its token's first frame.
            duration: Frames of its token.

        Returns:
            float32 […, POSITION_FEATURES].
        """
        share = (frame - start + 0.5) / duration
        since, until = frame - start, start + duration - 1 - frame
        features = [
            share,
            torch.sin(math.pi * share),
            torch.cos(math.pi * share),
            torch.exp(-since / 2),
            torch.exp(-until / 2),
            torch.log(duration) * 0.4,
            torch.tanh(since / 8),
            torch.tanh(until / 8),
        ]
        return torch.stack(features, -1)

    def decode(self, spread: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
        """Say what is heard.

        Args:
            spread: Each frame's token encoding, float32 [batch, T, WIDTH]; frames of 10 ms.
            positions: `position_features` of each frame.
            mask: 1 for a frame, 0 past the end, float32 [batch, T, 1].

        Returns:
            Normalised parameters of two frames of 5 ms for each, float32 [batch, 2T, OUTPUTS].
        """
        x = self.decoder_input(torch.cat([spread, positions], -1))
        for block in self.decoder:
            x = block(x, mask)
        with torch.autocast("cpu", enabled=False):
            y = self.output(self.output_norm(x.float()))
        return y.view(y.shape[0], -1, OUTPUTS)
