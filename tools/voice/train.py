"""Teach the acoustic model for a given number of minutes."""

import copy
import json
import math
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from torch import Tensor
from torch.nn import functional

from tools.voice.dataset import CEPSTRA, HELDOUT, Utterance
from tools.voice.model import CUTOFF, LOG_F0, OUTPUTS, VOICING, AcousticModel

BATCH_STEPS = 3200
"""Frames of 10 ms in a batch, padding included: 32 s."""

JUDGED = 60
"""Training sentences set aside, besides the held-out ones, to judge by."""

_SEED = 0
_STATISTICS_FROM = 600
_WARM_UP_STEPS = 200
_LR_FLOOR = 0.01
_BUCKET = 512
_JUDGE_EVERY_SECONDS = 90
_FIRST_JUDGED_STEPS = (100, 300)
_SHORTEST_DOUBLED_QUESTION = 18
_QUESTION_MARK = DEFAULT_PHONEME_ID_MAP["?"][0]


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast to learn.

    Attributes:
        minutes: Wall-clock budget.
        learning_rate: The highest.
        hold: Share of the budget at the highest rate, after which a cosine brings it down.
    """

    minutes: float
    learning_rate: float
    hold: float

    def rate(self, step: int, share: float) -> float:
        """The learning rate.

        Args:
            step: Steps done.
            share: Part of the budget that is spent, 0 to 1.
        """
        decay = 1.0
        if share >= self.hold:
            fall = min(1.0, (share - self.hold) / (1 - self.hold))
            decay = 0.5 * (1 + math.cos(math.pi * fall)) + _LR_FLOOR
        return self.learning_rate * min(1.0, (step + 1) / _WARM_UP_STEPS) * decay


FROM_SCRATCH = Schedule(minutes=30, learning_rate=2e-3, hold=0.3)
FINE_TUNE = Schedule(minutes=10, learning_rate=1.2e-3, hold=0.2)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How far the student is from the teacher, given the teacher's durations.

    Attributes:
        cepstrum: The weighted L1 distance that is trained.
        mcd: Mel-cepstral distortion in dB, c0 left out.
        pitch_cents: Mean absolute error of the pitch where voiced.
        voicing_percent: Frames whose voicing is wrong.
        duration_ms: Mean absolute error of the tokens that last.
    """

    cepstrum: float
    mcd: float
    pitch_cents: float
    voicing_percent: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Batch:
    """B utterances of up to N tokens and T frames of 10 ms, zeros past each one's end.

    Attributes:
        ids: int64 [B, N].
        token_mask: 1 for a token, float32 [B, N, 1].
        durations: Frames of each token, float32 [B, N].
        token_of: Index of each frame's token, int64 [B, T].
        frame: Index of each frame, float32 [B, T].
        start: Index of the first frame of each frame's token, float32 [B, T].
        duration: Frames of each frame's token, float32 [B, T].
        frame_mask: 1 for a frame, float32 [B, T, 1].
        target: The teacher's parameters, float32 [B, 2T, OUTPUTS].
    """

    ids: Tensor
    token_mask: Tensor
    durations: Tensor
    token_of: Tensor
    frame: Tensor
    start: Tensor
    duration: Tensor
    frame_mask: Tensor
    target: Tensor


def targets(item: Utterance) -> Tensor:
    """The teacher's parameters as the model orders them, float32 [2T, OUTPUTS]."""
    columns = (item.log_f0, item.voiced, item.cutoff)
    rows = [item.cepstra.astype(np.float32)]
    rows += [column.astype(np.float32)[:, None] for column in columns]
    return torch.from_numpy(np.concatenate(rows, axis=1))


def collate(items: Sequence[Utterance]) -> Batch:
    """Pad `items` to one length."""
    count = len(items)
    tokens = max(len(item.ids) for item in items)
    steps = max(int(item.durations.sum()) for item in items)
    batch = Batch(
        ids=torch.zeros(count, tokens, dtype=torch.long),
        token_mask=torch.zeros(count, tokens, 1),
        durations=torch.zeros(count, tokens),
        token_of=torch.zeros(count, steps, dtype=torch.long),
        frame=torch.zeros(count, steps),
        start=torch.zeros(count, steps),
        duration=torch.ones(count, steps),
        frame_mask=torch.zeros(count, steps, 1),
        target=torch.zeros(count, 2 * steps, OUTPUTS),
    )
    for row, item in enumerate(items):
        durations = torch.from_numpy(item.durations.astype(np.int64))
        length = int(durations.sum())
        token_of = torch.repeat_interleave(torch.arange(len(durations)), durations)
        batch.ids[row, : len(durations)] = torch.from_numpy(item.ids.astype(np.int64))
        batch.token_mask[row, : len(durations)] = 1
        batch.durations[row, : len(durations)] = durations.float()
        batch.token_of[row, :length] = token_of
        batch.frame[row, :length] = torch.arange(length).float()
        batch.start[row, :length] = (durations.cumsum(0) - durations)[token_of].float()
        batch.duration[row, :length] = durations[token_of].float()
        batch.frame_mask[row, :length] = 1
        batch.target[row, : 2 * length] = targets(item)
    return batch


def batches(items: Sequence[Utterance]) -> Iterator[list[Utterance]]:
    """One pass over `items` in random order, neighbours in length together.

    Yields:
        Utterances that fill at most `BATCH_STEPS` frames once padded.
    """
    shuffled = list(items)
    random.shuffle(shuffled)
    made: list[list[Utterance]] = []
    for first in range(0, len(shuffled), _BUCKET):
        # Sorted by length, so that the last one added is the longest.
        bucket = sorted(shuffled[first : first + _BUCKET], key=lambda item: len(item.voiced))
        batch: list[Utterance] = []
        for item in bucket:
            if batch and len(item.voiced) // 2 * (len(batch) + 1) > BATCH_STEPS:
                made.append(batch)
                batch = []
            batch.append(item)
        made.append(batch)
    random.shuffle(made)
    yield from made


def set_statistics(model: AcousticModel, items: Sequence[Utterance]) -> None:
    """Set the model's `mean` and `std` from utterances; voicing and cut-off stay as they are."""
    cepstra = np.concatenate([item.cepstra.astype(np.float32) for item in items])
    voiced = np.concatenate([item.voiced for item in items]) > 0
    pitch = np.concatenate([item.log_f0 for item in items])[voiced]
    model.mean[:CEPSTRA] = torch.from_numpy(cepstra.mean(0))
    model.std[:CEPSTRA] = torch.from_numpy(cepstra.std(0))
    model.mean[LOG_F0] = float(pitch.mean())
    model.std[LOG_F0] = float(pitch.std())


def losses(model: AcousticModel, batch: Batch) -> tuple[Tensor, Metrics]:
    """How wrong the model is about `batch`.

    Args:
        model: In training mode it computes in bfloat16.
        batch: What to judge it by.

    Returns:
        The loss that is minimised, and what to report.
    """
    with torch.autocast("cpu", torch.bfloat16, enabled=model.training):
        encoded = model.encode(batch.ids, batch.token_mask).float()
        log_durations = model.log_durations(encoded, batch.token_mask).float()
        index = batch.token_of[..., None].expand(-1, -1, encoded.shape[-1])
        positions = model.position_features(batch.frame, batch.start, batch.duration)
        outputs = model.decode(torch.gather(encoded, 1, index), positions, batch.frame_mask).float()

    mask = batch.frame_mask.repeat_interleave(2, 1)
    frames = mask.sum()
    target = (batch.target - model.mean) / model.std
    error = outputs - target
    spectrum = error[..., :CEPSTRA]
    voiced = batch.target[..., VOICING, None] * mask

    # Coefficients that vary much are heard much.
    weight = model.std[:CEPSTRA] ** 0.5
    weight = weight / weight.mean()
    cepstrum = (spectrum.abs() * weight * mask).sum() / frames / CEPSTRA
    # The change from frame to frame too, or the sounds run into each other.
    pairs = mask[:, 1:] * mask[:, :-1]
    change = (spectrum[:, 1:] - spectrum[:, :-1]).abs() * weight * pairs
    movement = change.sum() / frames / CEPSTRA
    pitch = (error[..., LOG_F0, None].abs() * (voiced + 0.05 * mask)).sum() / voiced.sum()
    voicing = functional.binary_cross_entropy_with_logits(
        outputs[..., VOICING, None], batch.target[..., VOICING, None], reduction="none"
    )
    voicing = (voicing * mask).sum() / frames
    cutoff = (error[..., CUTOFF, None].abs() * mask).sum() / frames
    duration = functional.smooth_l1_loss(
        log_durations, torch.log1p(batch.durations), reduction="none", beta=0.2
    )
    duration = (duration * batch.token_mask[..., 0]).sum() / batch.token_mask.sum()
    loss = cepstrum + movement + 0.3 * pitch + 0.5 * voicing + 0.1 * cutoff + duration

    with torch.no_grad():
        lasts = batch.durations > 0
        heard = mask[..., 0]
        squares = ((spectrum[..., 1:] * model.std[1:CEPSTRA]) ** 2 * mask).sum(-1)
        # 10 sqrt(2) / ln 10: from nepers to Kubichek's decibels.
        decibels = 6.1415 * (squares + 1e-9).sqrt() * heard
        cents = 1200 / math.log(2) * error[..., LOG_F0].abs() * model.std[LOG_F0] * voiced[..., 0]
        wrong = ((outputs[..., VOICING] > 0).float() != batch.target[..., VOICING]).float() * heard
        late = (torch.expm1(log_durations.clamp(min=0)) - batch.durations).abs() * lasts
        metrics = Metrics(
            cepstrum=cepstrum.item(),
            mcd=(decibels.sum() / frames).item(),
            pitch_cents=(cents.sum() / voiced.sum()).item(),
            voicing_percent=(100 * wrong.sum() / frames).item(),
            duration_ms=(10 * late.sum() / lasts.sum()).item(),
        )
    return loss, metrics


def judge(model: AcousticModel, items: Sequence[Utterance]) -> Metrics:
    """The model's mean metrics over `items`, twenty at a time."""
    model.eval()
    with torch.no_grad():
        parts = [
            asdict(losses(model, collate(items[first : first + 20]))[1])
            for first in range(0, len(items), 20)
        ]
    return Metrics(**{name: sum(p[name] for p in parts) / len(parts) for name in parts[0]})


def split(utterances: Sequence[Utterance]) -> tuple[list[Utterance], list[Utterance]]:
    """What to learn from and what to judge by.

    Questions count twice: they are few, and only they rise.

    Args:
        utterances: The data set, more than `JUDGED` training sentences in it.

    Returns:
        What to learn from, and what to judge by.
    """
    heldout = [item for item in utterances if item.name.startswith(HELDOUT)]
    rest = [item for item in utterances if not item.name.startswith(HELDOUT)]
    learned = rest[JUDGED:]
    questions = [
        item
        for item in learned
        if len(item.ids) > _SHORTEST_DOUBLED_QUESTION and item.ids[-2] == _QUESTION_MARK
    ]
    return learned + questions, heldout + rest[:JUDGED]


def train(
    utterances: Sequence[Utterance],
    checkpoint: Path,
    schedule: Schedule,
    *,
    resume: Path | None = None,
    threads: int = 2,
) -> list[dict[str, Any]]:
    """Teach a model and write a checkpoint, and another now and then on the way.

    The checkpoint is a dictionary of `model` (the moving average of the weights, which is what
    speaks), `id_counts` (how often each phoneme id is in the data set), `log` and `steps`.

    Args:
        utterances: The data set.
        checkpoint: Where to write.
        schedule: How long and how fast.
        resume: A checkpoint to go on from.
        threads: How many torch may use.

    Returns:
        The log: one entry each time the model was judged.
    """
    torch.manual_seed(_SEED)
    random.seed(_SEED)
    torch.set_num_threads(threads)
    learned, judged = split(utterances)
    counts = Counter(int(index) for item in utterances for index in item.ids)

    model = AcousticModel()
    if resume is None:
        set_statistics(model, random.sample(learned, min(_STATISTICS_FROM, len(learned))))
    else:
        model.load_state_dict(torch.load(resume)["model"])
    average = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=schedule.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    model.train()

    log: list[dict[str, Any]] = []
    step, frames = 0, 0
    began = time.monotonic()
    next_judged = began + _JUDGE_EVERY_SECONDS

    def report() -> None:
        minutes = (time.monotonic() - began) / 60
        entry = {"step": step, "minutes": round(minutes, 2), "hours": round(frames / 360_000, 2)}
        log.append(entry | asdict(judge(average, judged)))
        print(json.dumps(log[-1]), flush=True)
        state = {"model": average.state_dict(), "id_counts": dict(counts), "log": log}
        torch.save(state | {"steps": step}, checkpoint)

    while True:
        for items in batches(learned):
            share = (time.monotonic() - began) / (schedule.minutes * 60)
            if share >= 1:
                report()
                return log
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step, share)
            batch = collate(items)
            loss, _ = losses(model, batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            frames += int(batch.frame_mask.sum())
            _follow(average, model, step)
            if step in _FIRST_JUDGED_STEPS or time.monotonic() > next_judged:
                next_judged = time.monotonic() + _JUDGE_EVERY_SECONDS
                report()


def _follow(average: AcousticModel, model: AcousticModel, step: int) -> None:
    """Move `average` towards `model`: fast at first, then over some 500 steps."""
    decay = min(0.998, (step + 1) / (step + 20))
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - decay)
