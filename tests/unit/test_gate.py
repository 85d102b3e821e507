"""The gate: what nobody said is stopped, what somebody said passes."""

import math
import random
import struct

import pytest

from services.stt.engine import SAMPLE_RATE, Segment, Transcript
from services.stt.gate import (
    COMMONPLACES,
    CREDITS,
    Sound,
    compression,
    judge,
    normalise,
)
from tests.fakes.hearing_engine import heard

LOUD = Sound(level=-20.0, speech=1.2)


def noise(seconds: float, amplitude: int) -> bytes:
    """White noise between plus and minus `amplitude`."""
    source = random.Random(7)
    count = int(seconds * SAMPLE_RATE)
    return struct.pack(f"<{count}h", *(source.randint(-amplitude, amplitude) for _ in range(count)))


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech"),
    [
        # SYSTRAN/faster-whisper issue 621: credits on silence, with a confidence of two thirds.
        ("Sottotitoli creati dalla comunità Amara.org", -0.378, 0.878),
        ("Sottotitoli creati dalla comunità Amara.org", -0.307, 0.977),
        # Scores as confident, on noise instead of silence.
        ("Thank you.", -0.31, 0.62),
        (" you", -0.45, 0.79),
        ("Bye.", -0.35, 0.41),
        ("Thank you. Thank you.", -0.30, 0.55),
        ("ご視聴ありがとうございました", -0.20, 0.35),
        ("Untertitelung des ZDF, 2020", -0.25, 0.02),
        ("Субтитры сделал DimaTorzok", -0.5, 0.3),
        ("시청해주셔서 감사합니다!", -0.4, 0.6),
        ("请不吝点赞 订阅 转发 打赏支持明镜与点点栏目", -0.3, 0.1),
        ("Thanks for watching!", -0.32, 0.09),
        # Sounds, described or sung.
        ("♪", -0.2, 0.1),
        ("♪ la la la ♪", -0.2, 0.1),
        ("[Music]", -0.2, 0.1),
        ("(coughs)", -0.2, 0.1),
        ("...", -0.1, 0.1),
        # Whisper's own rule, whatever the words are.
        ("I went to the market.", -1.1, 0.7),
        # Nothing that the decoder believed in itself.
        ("Rrrr wq", -2.4, 0.1),
    ],
)
def test_hallucinations_are_rejected(text: str, logprob: float, no_speech: float) -> None:
    """Text that Whisper invents does not pass, even loud and with a confidence of its own."""
    verdict = judge(heard(text, confidence=math.exp(logprob), no_speech=no_speech), LOUD)
    assert not verdict.accepted
    assert verdict.transcript.text == ""
    assert len(verdict.rejected) == 1


@pytest.mark.parametrize(
    ("text", "logprob", "no_speech"),
    [
        # zachlatta/freeflow pull request 81: a real "thank you" stays below 0.02.
        ("Thank you.", -0.25, 0.015),
        ("You?", -0.4, 0.02),
        ("Bye!", -0.3, 0.01),
        ("Okay.", -0.5, 0.05),
        # openai/openai-python issue 245, and the example of OpenAI's API reference.
        ("Testing, testing, this is going to be a new audio recording.", -0.402, 0.163),
        ("The beach was a popular spot on a hot summer day.", -0.286, 0.0099),
        # Heard badly, but somebody spoke.
        ("go forward to metres", -0.95, 0.3),
        # Contains a known phrase, and says something.
        ("Thank you for watching my dog while I was away.", -0.4, 0.05),
        ("Can I subscribe, please?", -0.4, 0.05),
        ("No, no, no, no, no.", -0.3, 0.02),
    ],
)
def test_speech_passes(text: str, logprob: float, no_speech: float) -> None:
    """What somebody said passes unchanged, the shortest thanks included."""
    verdict = judge(heard(text, confidence=math.exp(logprob), no_speech=no_speech), LOUD)
    assert verdict.accepted
    assert verdict.transcript.text == text


@pytest.mark.parametrize(
    "sound",
    [
        Sound(level=-50.0, speech=1.2),  # too quiet
        Sound(level=-20.0, speech=0.06),  # a click
        Sound(level=-20.0, speech=0.3),  # shorter than the words take
    ],
)
def test_a_known_phrase_needs_a_sound_that_could_be_it(sound: Sound) -> None:
    """Loudness and length speak against a known phrase, but not against other words."""
    assert not judge(heard("Thank you very much.", confidence=0.9), sound).accepted
    assert judge(heard("Seven of clubs again.", confidence=0.9), sound).accepted


def test_silence_holds_no_words() -> None:
    """Nothing is believed of audio that is silent throughout, however sure the engine is."""
    verdict = judge(heard("and", confidence=1.0), Sound.of(bytes(2 * SAMPLE_RATE)))
    assert not verdict.accepted
    assert verdict.reason is not None
    assert "silence" in verdict.reason


def test_nothing_recognised_is_a_verdict_too() -> None:
    """An engine that heard nothing gets a reason, like one that is not believed."""
    assert judge(Transcript((), "en"), LOUD).reason == "nothing recognised"


def test_a_loop_is_rejected_across_segments() -> None:
    """A loop shows in the whole text, even where no segment of it is one."""
    parts = tuple(
        Segment("I'm going to be here.", n, n + 1, confidence=0.95, no_speech=0.01)
        for n in range(12)
    )
    verdict = judge(Transcript(parts, "en"), Sound(level=-20.0, speech=12.0))
    assert verdict.reason is not None
    assert "loop" in verdict.reason
    assert len(verdict.rejected) == len(parts)


def test_segments_are_judged_one_by_one() -> None:
    """A hallucination after real speech goes, the speech stays."""
    speech = Segment("Go forward ten meters.", 0.0, 2.0, confidence=0.85, no_speech=0.02)
    credit = Segment("Thanks for watching!", 2.0, 4.0, confidence=0.6, no_speech=0.02)
    verdict = judge(Transcript((speech, credit), "en"), LOUD)
    assert verdict.accepted
    assert verdict.transcript == Transcript((speech,), "en")
    assert [segment for segment, _ in verdict.rejected] == [credit]


def test_phrases_are_compared_without_case_accents_and_punctuation() -> None:
    """Spelling does not decide whether a phrase is known; kana keep the marks that tell them."""
    assert normalise("  Sous-titres réalisés par la communauté d'Amara.org! ") in CREDITS
    assert normalise("TSCHÜSS!") in COMMONPLACES
    assert normalise("ご視聴ありがとうございました。") == "ご視聴ありがとうございました"


def test_compression_measures_repetition() -> None:
    """Ordinary sentences stay well below Whisper's 2.4, loops above it."""
    sentence = "I want to book a table for two at seven tomorrow, by the window if I can."
    assert compression(sentence) < 1.5
    assert compression("Thank you. " * 8) > 2.4
    assert compression("") == 0.0


def test_sound_measures_level_and_length() -> None:
    """The level is the loudest stretch's; what is far below it does not count as speech."""
    burst = noise(0.3, 8000)
    hiss = noise(1.0, 20)
    sound = Sound.of(hiss + burst + hiss)
    # The RMS of uniform noise is its amplitude over the square root of three.
    assert sound.level == pytest.approx(20 * math.log10(8000 / 32768 / math.sqrt(3)), abs=1.0)
    assert sound.speech == pytest.approx(0.3, abs=0.061)
    assert Sound.of(b"") == Sound(-math.inf, 0.0)
    assert Sound.of(bytes(SAMPLE_RATE)) == Sound(-math.inf, 0.0)
