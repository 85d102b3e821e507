"""What the student learns from: espeak's tokens with the teacher's frames laid along them."""

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from piper.const import BOS, EOS
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP
from piper.phonemize_espeak import EspeakPhonemizer

from tools.voice import teacher
from tools.voice.phones import MODIFIERS, PAUSE, Kind, Match, Unit, align, cutoff_khz, units
from tools.voice.sentences import Corpus

CEPSTRA = 45
"""Mel-cepstral coefficients of a frame, c0 included."""

HELDOUT, TRAIN, QUESTION = "h", "t", "q"
"""What the name of a held-out sentence, a training sentence and a question begins with."""

MAX_COST_PER_PHONE = 0.22
"""Above this the two front ends read different words, and the sentence is dropped."""

# Frames of 5 ms that a silence keeps: Festival's are long, and a caller waits for the first.
_LONGEST_PAUSE = {Kind.BEGIN: 12, Kind.END: 30}
_LONGEST_INNER_PAUSE = 50

RISE_NEPERS = 0.45
"""How far a yes/no question rises at its end: 0.45 in log F0 is 7.8 semitones."""

RISE_SHAPE = 1.2
"""Exponent of the rise's course: above 1, late more than early."""


class DroppedError(Exception):
    """A sentence is no good for training; the message is the reason in one word."""


@dataclass(frozen=True, slots=True)
class Utterance:
    """One sentence to learn: N tokens, T frames of 10 ms, 2T frames of 5 ms.

    Attributes:
        name: `h00000`, `t00000` or `q00000`; see `HELDOUT`.
        text: The sentence.
        ids: Piper's phoneme ids with begin and end but without padding, int16 [N].
        durations: Frames of 10 ms that each token lasts, int16 [N]; they add up to T.
        cepstra: The teacher's mel-cepstrum, float16 [2T, CEPSTRA].
        log_f0: Natural logarithm of the pitch in Hz, interpolated where unvoiced, float32 [2T].
        voiced: 1 where voiced, uint8 [2T].
        cutoff: Voicing cut-off in kHz, float16 [2T].
        cost: The alignment's cost per phone.
    """

    name: str
    text: str
    ids: npt.NDArray[np.int16]
    durations: npt.NDArray[np.int16]
    cepstra: npt.NDArray[np.float16]
    log_f0: npt.NDArray[np.float32]
    voiced: npt.NDArray[np.uint8]
    cutoff: npt.NDArray[np.float16]
    cost: float

    @property
    def seconds(self) -> float:
        """How long the utterance lasts."""
        return len(self.voiced) * teacher.FRAME_SECONDS


@dataclass(frozen=True, slots=True)
class Track:
    """The teacher's frames after trimming.

    Attributes:
        per_token: Frames of 5 ms that each token carries, int [N]; they add up to F.
        kept: Which frames of the reading remain, bool; F of them are True.
    """

    per_token: npt.NDArray[np.int64]
    kept: npt.NDArray[np.bool_]


def named(corpus: Corpus) -> list[tuple[str, str]]:
    """Every sentence of `corpus` that the student hears or is judged by, with its name."""
    parts = ((HELDOUT, corpus.heldout), (TRAIN, corpus.train), (QUESTION, corpus.questions))
    return [
        (f"{prefix}{index:05d}", text)
        for prefix, sentences in parts
        for index, text in enumerate(sentences)
    ]


def lay_frames(
    tokens: Sequence[str],
    grouped: Sequence[Unit],
    matches: Sequence[Match],
    phones: Sequence[str],
    states: npt.NDArray[np.int32],
) -> Track:
    """Give every frame of the teacher to a token, and shorten the silences.

    A phone of two tokens (a diphthong, an affricate) gives its first three states to the first. A
    phone that espeak has no token for lengthens the token before it.

    Args:
        tokens: N tokens.
        grouped: Their units.
        matches: One match for each of S phones, in order.
        phones: The S phones.
        states: Frames in each state of each phone, int [S, 5].

    Returns:
        The track.
    """
    totals = states.sum(axis=1)
    ends = np.cumsum(totals)
    per_token = np.zeros(len(tokens), np.int64)
    kept = np.ones(int(ends[-1]), np.bool_)
    current = 0
    for match in matches:
        index = match.phone
        unit = None if match.unit is None else grouped[match.unit]
        total = int(totals[index])
        if phones[index] == PAUSE:
            kind = unit.kind if unit else Kind.SPACE
            limit = _LONGEST_PAUSE.get(kind, _LONGEST_INNER_PAUSE)
            surplus = max(0, total - limit)
            first = int(ends[index]) - total
            if kind is Kind.END:
                first += limit
            elif kind is not Kind.BEGIN:
                first += limit // 2
            kept[first : first + surplus] = False
            total -= surplus
        carriers = [] if unit is None else [i for i in unit.tokens if tokens[i] not in MODIFIERS]
        if len(carriers) == 2:
            per_token[carriers[0]] += states[index, :3].sum()
            per_token[carriers[1]] += states[index, 3:].sum()
            current = carriers[1]
        else:
            current = carriers[0] if carriers else current
            per_token[current] += total
    return Track(per_token, kept)


def question_rise(reading: teacher.Reading) -> npt.NDArray[np.float32]:
    """The rise that a yes/no question ends with, which the HMM voice leaves out.

    Args:
        reading: The question, F frames.

    Returns:
        What to add to log F0, float32 [F]: 0 up to the last stressed syllable, then rising to
        the end of the last phone.
    """
    totals = reading.durations.sum(axis=1)
    ends = np.cumsum(totals)
    stressed = teacher.last_stress(reading.labels)
    start = int(ends[stressed] - totals[stressed])
    end = int(ends[max(i for i, phone in enumerate(reading.phones) if phone != PAUSE)])
    rise = np.zeros(len(reading.log_f0), np.float32)
    rise[start:end] = RISE_NEPERS * (np.arange(1, end - start + 1) / (end - start)) ** RISE_SHAPE
    rise[end:] = RISE_NEPERS
    return rise


def to_steps(frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int16]:
    """Halve the time resolution without drift.

    Args:
        frames: Frames of 5 ms that each of N tokens lasts.

    Returns:
        Frames of 10 ms, int16 [N]; each token's end is off by 5 ms at most.
    """
    ends = np.round(np.cumsum(frames) / 2).astype(np.int64)
    return np.diff(ends, prepend=0).astype(np.int16)


@cache
def _phonemizer() -> EspeakPhonemizer:
    return EspeakPhonemizer()


def tokens_of(text: str) -> list[str]:
    """What Piper makes of one sentence: code points between a begin and an end mark.

    Raises:
        DroppedError: espeak takes the text for more or less than one sentence, or says it with a
            phoneme that Piper has no id for.
    """
    sentences = _phonemizer().phonemize("en-us", text)
    if len(sentences) != 1:
        raise DroppedError("sentences")
    tokens = [BOS, *sentences[0], EOS]
    if any(token not in DEFAULT_PHONEME_ID_MAP for token in tokens):
        raise DroppedError("phoneme without id")
    return tokens


def utterance(name: str, text: str, reading: teacher.Reading | None) -> Utterance:
    """Lay the teacher's frames along espeak's tokens.

    Args:
        name: The sentence's name.
        text: The sentence.
        reading: How the teacher says it; None where it could not.

    Raises:
        DroppedError: The sentence is no good for training.
    """
    if reading is None:
        raise DroppedError("no reading")
    tokens = tokens_of(text)
    grouped = units(tokens)
    if grouped is None:
        raise DroppedError("foreign phoneme")
    phones = reading.phones
    cost, matches = align(grouped, phones)
    spoken = sum(unit.kind is Kind.PHONE for unit in grouped)
    if spoken < 1 or cost / max(4, spoken) > MAX_COST_PER_PHONE:
        raise DroppedError("other words")

    track = lay_frames(tokens, grouped, matches, phones, reading.durations)
    steps = to_steps(track.per_token)
    # Which of the teacher's frames the 2T are; the last one twice where their number is odd.
    frames = np.flatnonzero(track.kept)
    frames = np.append(frames, frames[-1:])[: 2 * int(steps.sum())]

    log_f0 = reading.log_f0[frames]
    voiced = log_f0 > 0
    if voiced.sum() < 5:
        raise DroppedError("unvoiced")
    if tokens[-2] == "?" and teacher.rises(reading.labels):
        log_f0 = log_f0 + question_rise(reading)[frames]
    times = np.arange(len(frames))
    cutoffs = np.repeat([cutoff_khz(phone) for phone in phones], reading.durations.sum(axis=1))
    return Utterance(
        name=name,
        text=text,
        ids=np.array([DEFAULT_PHONEME_ID_MAP[token][0] for token in tokens], np.int16),
        durations=steps,
        cepstra=reading.cepstra[frames].astype(np.float16),
        log_f0=np.interp(times, times[voiced], log_f0[voiced]).astype(np.float32),
        voiced=voiced.astype(np.uint8),
        cutoff=cutoffs[frames].astype(np.float16),
        cost=cost / spoken,
    )


def _utterance_or_reason(folder: Path, sentence: tuple[str, str]) -> Utterance | str:
    name, text = sentence
    try:
        return utterance(name, text, teacher.read(folder, name))
    except DroppedError as error:
        return str(error)


def build(
    sentences: Sequence[tuple[str, str]], folder: Path, jobs: int
) -> tuple[list[Utterance], Counter[str]]:
    """Make an utterance of every sentence that is good for it.

    Args:
        sentences: Pairs of a name and its text.
        folder: What `teacher.speak` filled.
        jobs: Processes at a time.

    Returns:
        The utterances in the order of `sentences`, and how many sentences were dropped for which
        reason.
    """
    with ProcessPoolExecutor(jobs) as pool:
        results = pool.map(partial(_utterance_or_reason, folder), sentences, chunksize=100)
        made, dropped = [], Counter[str]()
        for result in results:
            if isinstance(result, str):
                dropped[result] += 1
            else:
                made.append(result)
    return made, dropped


_PER_TOKEN = ("ids", "durations")
_PER_FRAME = ("cepstra", "log_f0", "voiced", "cutoff")
_PER_UTTERANCE = ("name", "text", "cost")


def save(utterances: Sequence[Utterance], path: Path) -> None:
    """Write `utterances` to one `.npz`, their arrays end to end."""
    columns: dict[str, Any] = {
        field: np.array([getattr(item, field) for item in utterances]) for field in _PER_UTTERANCE
    }
    for field in _PER_TOKEN + _PER_FRAME:
        columns[field] = np.concatenate([getattr(item, field) for item in utterances])
    columns["tokens"] = np.array([len(item.ids) for item in utterances])
    columns["frames"] = np.array([len(item.voiced) for item in utterances])
    np.savez(path, **columns)


def load(path: Path) -> list[Utterance]:
    """Read what `save` wrote."""
    with np.load(path) as columns:
        token_ends = np.cumsum(columns["tokens"])[:-1]
        frame_ends = np.cumsum(columns["frames"])[:-1]
        fields = {field: columns[field].tolist() for field in _PER_UTTERANCE}
        fields |= {field: np.split(columns[field], token_ends) for field in _PER_TOKEN}
        fields |= {field: np.split(columns[field], frame_ends) for field in _PER_FRAME}
    rows = zip(*fields.values(), strict=True)
    return [Utterance(**dict(zip(fields, row, strict=True))) for row in rows]
