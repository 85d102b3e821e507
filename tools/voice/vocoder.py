# mypy: allow-subclassing-any
"""A vocoder without weights: mel-cepstrum, pitch and voicing to a waveform, in closed form.

The source is pulses below the voicing cut-off and noise above it; the filter is the minimum-phase
one of the mel-cepstrum. Nothing is learned, so one acoustic model speaks at any sample rate, and
every operation has an ONNX counterpart of opset 17 that CPUs run fast: the Fourier transforms are
matrix products.
"""

import math

import torch
from torch import Tensor, nn

from tools.voice.dataset import CEPSTRA

FRAMES_PER_SECOND = 200
"""Frames of parameters: one each 5 ms."""

TEACHER_RATE = 32000.0
"""The sample rate in Hz that the teacher's mel-cepstra belong to."""

WARPING = 0.45
"""All-pass constant of the teacher's mel scale: the `ALPHA` of its voice file."""

CUTOFF_WIDTH_KHZ = 0.6
"""Pulses give way to noise along a logistic curve of this width."""

GAIN = 2 / 32768
"""The teacher counts in 16-bit steps; twice that leaves peaks near 0.6 of full scale."""

_HOPS = 6
_WINDOW_HOPS = 2


class Vocoder(nn.Module):
    """Frame parameters to samples."""

    bin_index: Tensor
    sample_index: Tensor
    quefrency: Tensor
    ramp: Tensor
    bin_weight: Tensor

    def __init__(self, sample_rate: int):
        """Prepare for one rate.

        Args:
            sample_rate: Samples a second, a multiple of 200 and at most `TEACHER_RATE`.
        """
        super().__init__()
        self.sample_rate = sample_rate
        self.hop = sample_rate // FRAMES_PER_SECOND
        # A window of two hops of excitation, and four more for the filter to ring.
        self.size = self.hop * _HOPS
        bins = self.size // 2 + 1
        # Ranges alone are stored. The tables made of them would be megabytes in the file, while
        # ONNX Runtime computes them once, when it loads the graph.
        self.register_buffer("bin_index", torch.arange(bins, dtype=torch.float32))
        self.register_buffer("sample_index", torch.arange(self.size, dtype=torch.float32)[:, None])
        self.register_buffer("quefrency", torch.arange(CEPSTRA, dtype=torch.float32)[:, None])
        ramp = (torch.arange(self.hop, dtype=torch.float32)[None] + 0.5) / self.hop
        self.register_buffer("ramp", ramp)
        bin_weight = torch.full((bins, 1), 2.0 / self.size)
        bin_weight[0] = bin_weight[-1] = 1.0 / self.size
        self.register_buffer("bin_weight", bin_weight)

    def _cepstral_tables(self) -> tuple[Tensor, Tensor]:
        """Mel-cepstrum to log magnitude and to phase, both [CEPSTRA, bins]."""
        omega = 2 * math.pi * self.bin_index * (self.sample_rate / self.size) / TEACHER_RATE
        mel = omega + 2 * torch.atan(WARPING * torch.sin(omega) / (1 - WARPING * torch.cos(omega)))
        return torch.cos(self.quefrency * mel), -torch.sin(self.quefrency * mel)

    def _fourier_tables(self) -> tuple[Tensor, Tensor]:
        """Windowed forward transform [2 hops, 2 bins] and inverse [2 bins, size]: real, imaginary.

        The products of the indices stay below 2^24 and are reduced modulo the size before they
        become angles, so float32 holds them exactly.
        """
        product = self.sample_index * self.bin_index
        product = product - torch.floor((product + 0.5) / self.size) * self.size
        angle = product * (2 * math.pi / self.size)
        cosine, sine = torch.cos(angle), torch.sin(angle)
        length = _WINDOW_HOPS * self.hop
        window = torch.sin(self.sample_index[:length] * (math.pi / length)) ** 2
        forward = torch.cat([cosine[:length], -sine[:length]], 1) * window
        inverse = torch.cat([cosine.t() * self.bin_weight, -sine.t() * self.bin_weight], 0)
        return forward, inverse

    def _pulses(self, log_f0: Tensor) -> Tensor:
        """A band-limited pulse train of unit power density, [frames, hop].

        The sum of the cosines of all harmonics below half the rate is a Dirichlet kernel of the
        phase. Phase runs in float64 from frame to frame, or long utterances would drift.
        """
        f0 = torch.exp(log_f0)
        next_f0 = torch.cat([f0[1:], f0[-1:]])
        f0_at = f0[:, None] + (next_f0 - f0)[:, None] * self.ramp
        within = torch.cumsum(f0_at / self.sample_rate, 1)
        per_frame = within[:, -1].double()
        start = torch.cumsum(per_frame, 0) - per_frame
        start = (start - torch.floor(start)).float()
        phase = start[:, None] + within
        phase = phase - torch.floor(phase + 0.5)

        harmonics = torch.floor(0.5 * self.sample_rate / f0 - 0.5)[:, None]
        sine = torch.sin(math.pi * phase)
        at_peak = torch.abs(sine) < 1e-4
        kernel = torch.where(
            at_peak,
            harmonics,
            0.5
            * torch.sin((2 * harmonics + 1) * math.pi * phase)
            / torch.where(at_peak, torch.ones_like(sine), sine)
            - 0.5,
        )
        return kernel * 2 * torch.sqrt(f0_at / TEACHER_RATE)

    def forward(
        self,
        cepstra: Tensor,
        log_f0: Tensor,
        voicing: Tensor,
        cutoff: Tensor,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Make sound of T frames of 5 ms.

        Args:
            cepstra: Mel-cepstrum, float32 [T, CEPSTRA].
            log_f0: Natural logarithm of the pitch in Hz, continuous through unvoiced frames, [T].
            voicing: 0 to 1, [T].
            cutoff: Voicing cut-off in kHz, [T].
            noise: Unit-variance noise, [T, hop]; drawn where None.

        Returns:
            float32 [T * hop]; sample 0 is the centre of frame 0.
        """
        to_log_magnitude, to_phase = self._cepstral_tables()
        forward, inverse = self._fourier_tables()
        bins = self.size // 2 + 1

        pulses = self._pulses(log_f0)
        if noise is None:
            noise = torch.randn_like(pulses)
        noise = noise * math.sqrt(self.sample_rate / TEACHER_RATE)
        pulse_bins = _windows(pulses) @ forward
        noise_bins = _windows(noise) @ forward

        frequency = self.bin_index * (self.sample_rate / self.size) / 1000.0
        harmonic = voicing[:, None] * torch.sigmoid(
            (cutoff[:, None] - frequency[None]) / CUTOFF_WIDTH_KHZ
        )
        breath = torch.sqrt(1 - harmonic * harmonic + 1e-6)
        source_re = pulse_bins[:, :bins] * harmonic + noise_bins[:, :bins] * breath
        source_im = pulse_bins[:, bins:] * harmonic + noise_bins[:, bins:] * breath

        magnitude = torch.exp(cepstra @ to_log_magnitude)
        phase = cepstra @ to_phase
        filter_re, filter_im = magnitude * torch.cos(phase), magnitude * torch.sin(phase)
        real = source_re * filter_re - source_im * filter_im
        imaginary = source_re * filter_im + source_im * filter_re
        rows = (torch.cat([real, imaginary], 1) @ inverse).view(-1, _HOPS, self.hop)
        samples = _overlap_add(rows)
        return samples[self.hop : -(_HOPS - 2) * self.hop] * GAIN


def _windows(hops: Tensor) -> Tensor:
    """Each hop with the one before it, [T, hop] to [T, 2 hop]: window i is centred on frame i."""
    silence = torch.zeros_like(hops[:1])
    return torch.cat([torch.cat([silence, hops[:-1]], 0), hops], 1)


def _overlap_add(rows: Tensor) -> Tensor:
    """Add up rows that each start one hop after the last, [T, HOPS, hop] to [(T + HOPS - 1) hop].

    Shifted sums, because ONNX Runtime has no fast kernel for `fold`.
    """
    silence = torch.zeros_like(rows[:1, 0])
    total = torch.cat([rows[:, 0], *[silence] * (_HOPS - 1)], 0)
    for shift in range(1, _HOPS):
        shifted = [*[silence] * shift, rows[:, shift], *[silence] * (_HOPS - 1 - shift)]
        total = total + torch.cat(shifted, 0)
    return total.reshape(-1)
