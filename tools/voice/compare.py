"""The student against the teacher, frame by frame, and the vocoder by itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from tools.voice.dataset import CEPSTRA, Utterance
from tools.voice.model import CUTOFF, LOG_F0, VOICING, AcousticModel
from tools.voice.train import collate, targets
from tools.voice.vocoder import Vocoder


@dataclass(frozen=True, slots=True)
class Prosody:
    """How alive the student is beside the teacher, given the teacher's durations.

    Attributes:
        pitch_spread: Standard deviation of log F0 within an utterance, student over teacher.
        pitch_correlation: Of the two log F0 over all voiced frames.
        length: Duration of the utterances, student over teacher.
        spectral_spread: Standard deviation of each mel-cepstral coefficient within an utterance,
            teacher over student: what global variance would multiply by, float [CEPSTRA].
    """

    pitch_spread: float
    pitch_correlation: float
    length: float
    spectral_spread: npt.NDArray[np.float64]


def prosody(model: AcousticModel, items: Sequence[Utterance]) -> Prosody:
    """Compare pitch, length and liveliness over `items`.

    Args:
        model: In evaluation mode.
        items: What the teacher said.
    """
    pitches, guesses, spreads, lengths = [], [], [], []
    for item in items:
        batch = collate([item])
        with torch.no_grad():
            encoded = model.encode(batch.ids, batch.token_mask)
            frames = torch.expm1(torch.relu(model.log_durations(encoded, batch.token_mask)))
            positions = model.position_features(batch.frame, batch.start, batch.duration)
            outputs = model.decode(encoded[:, batch.token_of[0]], positions, batch.frame_mask)[0]
            outputs = outputs * model.std + model.mean
        student, teacher = outputs.numpy(), batch.target[0].numpy()
        voiced = item.voiced > 0
        pitches.append(teacher[voiced, LOG_F0])
        guesses.append(student[voiced, LOG_F0])
        spreads.append((teacher[:, :CEPSTRA].std(0), student[:, :CEPSTRA].std(0)))
        lengths.append((float(frames.sum()), float(batch.durations.sum())))
    spread = np.mean(spreads, axis=0)
    total = np.sum(lengths, axis=0)
    return Prosody(
        pitch_spread=float(
            np.mean([g.std() for g in guesses]) / np.mean([p.std() for p in pitches])
        ),
        pitch_correlation=float(
            np.corrcoef(np.concatenate(pitches), np.concatenate(guesses))[0, 1]
        ),
        length=float(total[0] / total[1]),
        spectral_spread=spread[0] / spread[1],
    )


def copy_synthesis(vocoder: Vocoder, item: Utterance) -> npt.NDArray[np.float32]:
    """The teacher's own parameters through our vocoder: what a perfect student would say.

    Args:
        vocoder: At the rate that is wanted.
        item: What the teacher said.

    Returns:
        float32 [S].
    """
    rows = targets(item)
    with torch.no_grad():
        samples = vocoder(
            rows[:, :CEPSTRA], rows[:, LOG_F0], rows[:, VOICING], rows[:, CUTOFF]
        ).numpy()
    return np.asarray(samples / max(1.0, np.abs(samples).max()), np.float32)
