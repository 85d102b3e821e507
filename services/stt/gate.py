"""What an engine heard is believed here, or not.

Engines find words where nobody spoke. Whisper was trained on subtitles, so silence and noise come
out as what stands there when nobody speaks: thanks, goodbyes, and credits. The gate keeps such text
from the LLM. It is no VAD and no spell-checker: speech that was heard badly passes, so that the
agent can ask; only what nobody said is stopped.

A phrase alone never condemns: people do say "thank you" and "bye". A known phrase is rejected when
the engine's own scores, the loudness or the length of the speech raise a doubt as well.

Where the thresholds come from:

- 0.6 (no speech), -1.0 (mean log probability) and 2.4 (compression ratio) are Whisper's own
  (`transcribe` in openai/whisper, and in faster-whisper).
- Credits invented on silence keep a high confidence beside a high no-speech probability:
  exp(-0.38) at 0.88 and exp(-0.31) at 0.98 in SYSTRAN/faster-whisper issue 621. A real "thank you"
  stays below 0.02 in zachlatta/freeflow pull request 81, ordinary speech reaches 0.16 in
  openai/openai-python issue 245. Hence 0.2 for a known phrase.
- Levels are in dB below full scale. Near-silence is -52 dBFS in Vexa-ai/vexa pull request 619 and
  -40 dBFS in TypeWhisper/typewhisper-win pull request 23; the loudest 30 ms of each recording that
  the tests use are between -22 and -11.
"""

# ruff: noqa: RUF001 (the phrases are in the scripts of their languages)
import asyncio
import math
import re
import unicodedata
import zlib
from dataclasses import dataclass, field

import numpy as np

from services.stt.engine import SAMPLE_RATE, Segment, Transcript
from services.stt.hearing import Hearing

_FRAME = SAMPLE_RATE * 30 // 1000


def normalise(text: str) -> str:
    """`text` in lower case, with neither punctuation nor accents, single-spaced."""
    letters: list[str] = []
    base = ""
    for letter in unicodedata.normalize("NFKD", text.casefold()):
        # The marks of kana stay: without them it is another kana.
        if not unicodedata.combining(letter):
            base = letter
            letters.append(letter)
        elif base > "\u1fff":
            letters.append(letter)
    composed = unicodedata.normalize("NFC", "".join(letters))
    return " ".join(re.sub(r"[\W_]+", " ", composed).split())


CREDITS = frozenset(
    normalise(phrase)
    for phrase in (
        # What subtitlers sign with.
        "Subtitles by the Amara.org community",
        "Transcription by CastingWords",
        "Untertitel der Amara.org-Community",
        "Untertitel im Auftrag des ZDF für funk, 2017",
        "Untertitelung des ZDF, 2020",
        "Sous-titres réalisés par la communauté d'Amara.org",
        "Sous-titres réalisés para la communauté d'Amara.org",
        "Sous-titrage ST' 501",
        "Subtítulos realizados por la comunidad de Amara.org",
        "Subtítulos por la comunidad de Amara.org",
        "Legendas pela comunidade Amara.org",
        "Sottotitoli creati dalla comunità Amara.org",
        "Sottotitoli e revisione a cura di QTSS",
        "Ondertitels ingediend door de Amara.org gemeenschap",
        "Napisy stworzone przez społeczność Amara.org",
        "字幕由Amara.org社区提供",
        "Субтитры сделал DimaTorzok",
        "Субтитры создавал DimaTorzok",
        "Редактор субтитров А.Семкин Корректор А.Егорова",
        "Altyazı M.K.",
        # What videos end with.
        "Thanks for watching",
        "Thank you for watching",
        "Thank you so much for watching",
        "I'll see you in the next video",
        "Please subscribe",
        "Please subscribe to my channel",
        "Like and subscribe",
        "Don't forget to like and subscribe",
        "Vielen Dank fürs Zuschauen",
        "Merci d'avoir regardé cette vidéo",
        "Abonnez-vous",
        "Gracias por ver el video",
        "Suscríbete al canal",
        "Obrigado por assistir",
        "Inscreva-se no canal",
        "Grazie per aver guardato il video",
        "Dziękuję za oglądanie",
        "Bedankt voor het kijken",
        "Спасибо за просмотр",
        "Подписывайтесь на канал",
        "Продолжение следует",
        "İzlediğiniz için teşekkür ederim",
        "Abone olmayı unutmayın",
        "ご視聴ありがとうございました",
        "最後までご視聴いただきありがとうございました",
        "次の動画でお会いしましょう",
        "チャンネル登録お願いします",
        "请不吝点赞 订阅 转发 打赏支持明镜与点点栏目",
        "谢谢观看",
        "感谢观看",
        "시청해주셔서 감사합니다",
        "구독과 좋아요 부탁드립니다",
        "Terima kasih telah menonton",
    )
)
"""What hardly anybody says to an agent, normalised."""

COMMONPLACES = frozenset(
    normalise(phrase)
    for phrase in (
        *("you", "thank you", "thank you very much", "thank you so much", "thanks", "I'm sorry"),
        *("bye", "bye-bye", "goodbye", "okay", "ok", "so", "oh", "hmm", "mm", "uh", "yeah", "the"),
        *("danke", "vielen Dank", "tschüss", "merci", "au revoir", "gracias", "adiós"),
        *("obrigado", "tchau", "grazie", "ciao", "dziękuję", "bedankt", "спасибо", "пока"),
        *(
            "teşekkür ederim",
            "ありがとうございました",
            "おやすみなさい",
            "谢谢",
            "감사합니다",
            "네",
        ),
    )
)
"""What people say every day, and Whisper on noise, normalised."""


SILENCE = -55.0
"""dBFS of the loudest 30 ms below which nothing can have been said."""

QUIET = -45.0
"""dBFS of the loudest 30 ms below which a known phrase is doubted."""

NO_SPEECH = 0.6
"""No-speech probability above which a segment with a confidence below `CONFIDENCE` is rejected."""

CONFIDENCE = math.exp(-1.0)
"""See `NO_SPEECH`."""

HOPELESS = math.exp(-2.0)
"""Confidence below which a segment is rejected whatever else is known of it: the decoder then
hardly preferred these words to any others."""

COMPRESSION = 2.4
"""Ratio of the text's size to its size under zlib above which it is a loop. A word said a dozen
times over gets there, a sentence stays below 2."""

PHRASE_NO_SPEECH = 0.2
"""No-speech probability above which a known phrase is doubted."""

PHRASE_CONFIDENCE = 0.5
"""Confidence below which a commonplace is doubted."""

CREDIT_CONFIDENCE = 0.8
"""The same for a credit, which hardly anybody says."""

PHRASE_SPEECH = 0.15
"""Seconds of sound below which a known phrase is doubted: a click."""

PHRASE_PACE = 30.0
"""Characters a second of sound above which a known phrase is doubted. Fast English has about 20."""


@dataclass(frozen=True, slots=True)
class Sound:
    """How a stretch of audio sounds, whatever is said in it.

    Attributes:
        level: RMS of its loudest 30 ms, in dBFS; -inf for digital silence.
        speech: Seconds that come within 25 dB of that, which is about the range of speech.
    """

    level: float
    speech: float

    @classmethod
    def of(cls, pcm: bytes) -> "Sound":
        """Measure `pcm`: signed 16-bit mono samples at `SAMPLE_RATE`."""
        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], np.int16).astype(np.float32) / 32768
        whole = len(samples) // _FRAME * _FRAME
        if not whole:
            return cls(-math.inf, 0.0)
        power = np.mean(np.square(samples[:whole].reshape(-1, _FRAME)), axis=1)
        peak = float(power.max())
        if not peak:
            return cls(-math.inf, 0.0)
        frames = int(np.count_nonzero(power >= peak * 10**-2.5))
        return cls(10 * math.log10(peak), frames * _FRAME / SAMPLE_RATE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate made of a transcript.

    Attributes:
        transcript: The segments that are believed.
        reason: Why none is; None when there is something to believe.
        rejected: The other segments, each with the reason.
    """

    transcript: Transcript
    reason: str | None = None
    rejected: tuple[tuple[Segment, str], ...] = field(default=())

    @property
    def accepted(self) -> bool:
        """Whether there is something to believe."""
        return self.reason is None


async def listen(hearing: Hearing, pcm: bytes, language: str | None) -> Verdict:
    """What is said in `pcm`, as far as it is believed.

    Args:
        hearing: What hears; not asked about silence, on which an engine takes as long as on speech
            and invents more.
        pcm: Signed 16-bit little-endian mono samples at `SAMPLE_RATE`.
        language: ISO 639-1 code of the speech, or None to let the engine tell.

    Raises:
        BusyError: It cannot be had now.
        EngineError: Recognition failed.
    """
    sound = await asyncio.to_thread(Sound.of, pcm)
    heard = Transcript(())
    if sound.level >= SILENCE:
        heard = await hearing.transcribe(pcm, language)
    return judge(heard, sound)


def judge(transcript: Transcript, sound: Sound) -> Verdict:
    """Sort what was heard into what is believed and what is not.

    Args:
        transcript: What the engine heard.
        sound: What it heard it in.
    """
    nothing = Transcript((), transcript.language)
    if sound.level < SILENCE:
        reason = f"silence ({sound.level:.0f} dBFS)"
        return Verdict(nothing, reason, tuple((part, reason) for part in transcript.segments))
    if not transcript.segments:
        return Verdict(nothing, "nothing recognised")
    ratio = compression(transcript.text)
    if ratio > COMPRESSION:
        reason = f"a loop (compresses {ratio:.1f} times)"
        return Verdict(nothing, reason, tuple((part, reason) for part in transcript.segments))
    believed: list[Segment] = []
    rejected: list[tuple[Segment, str]] = []
    for part in transcript.segments:
        if fault := _fault(part, sound):
            rejected.append((part, fault))
        else:
            believed.append(part)
    return Verdict(
        Transcript(tuple(believed), transcript.language),
        None if believed else rejected[0][1],
        tuple(rejected),
    )


def compression(text: str) -> float:
    """How many times smaller zlib makes `text`: Whisper's measure of repetition."""
    data = text.encode()
    return len(data) / len(zlib.compress(data)) if data else 0.0


def _fault(part: Segment, sound: Sound) -> str | None:
    """Why a segment is not believed, or None."""
    # What Whisper puts in brackets or between notes describes a sound: [Music], (applause), ♪.
    words = normalise(re.sub(r"\[[^]]*\]|\([^)]*\)|\*[^*]*\*|♪[^♪]*♪", " ", part.text))
    if not words:
        return "no words"
    if part.confidence < HOPELESS:
        return f"a guess (confidence {part.confidence:.2f})"
    if part.no_speech > NO_SPEECH and part.confidence < CONFIDENCE:
        return f"no speech ({part.no_speech:.2f}, confidence {part.confidence:.2f})"
    if _repeats(words, CREDITS):
        doubt = _doubt(words, part, sound, CREDIT_CONFIDENCE)
    elif _repeats(words, COMMONPLACES):
        doubt = _doubt(words, part, sound, PHRASE_CONFIDENCE)
    else:
        doubt = None
    return f"a known hallucination ({doubt})" if doubt else None


def _repeats(words: str, phrases: frozenset[str]) -> bool:
    """Whether `words` are one of the phrases, said once or several times."""
    if words in phrases:
        return True
    tokens = words.split()
    return any(
        tokens == tokens[:length] * (len(tokens) // length) and " ".join(tokens[:length]) in phrases
        for length in range(1, len(tokens) // 2 + 1)
    )


def _doubt(words: str, part: Segment, sound: Sound, confidence: float) -> str | None:
    """What speaks against a known phrase having been said, or None."""
    if part.no_speech > PHRASE_NO_SPEECH:
        return f"no speech {part.no_speech:.2f}"
    if part.confidence < confidence:
        return f"confidence {part.confidence:.2f}"
    if sound.level < QUIET:
        return f"{sound.level:.0f} dBFS"
    if sound.speech < PHRASE_SPEECH:
        return f"{sound.speech:.2f} s of sound"
    if len(words) > PHRASE_PACE * sound.speech:
        return f"{len(words)} characters in {sound.speech:.2f} s of sound"
    return None
