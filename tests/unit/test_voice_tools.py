"""The recipe of the embedded voice: everything before and after the training itself."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

from tools.voice import dataset, evaluate, sentences, teacher
from tools.voice.phones import NEAREST, PAUSE, Kind, Match, align, cutoff_khz, units

EXAMPLES = {f"the {word} was found again" for word in ("cat", "dog", "key")} | {
    "who could have known that"
}
WORDS = ["apple", "river", "window"]
EYE_CHEESE = "\u02c8a\u026a t\u0283\u02c8i\u02d0."
"""What espeak makes of something like "Eye chee.": stress, diphthong, affricate, length."""


def labels(phones: str, stressed: str = "", ending: str = "L-L%") -> tuple[str, ...]:
    """Labels in the HTS format with the fields that the recipe reads."""
    return tuple(
        f"x^x-{phone}+x=x@{1 if phone in stressed.split() else 2}_1"
        f"/A:0/B:{1 if phone in stressed.split() else 0}-0-1/J:1+1-1|{ending}/I:0"
        for phone in phones.split()
    )


def reading(phones: str, frames: Sequence[int], **fields: str) -> teacher.Reading:
    """A reading whose phones last as many frames as told, all in the third state."""
    durations = np.zeros((len(frames), teacher.STATES), np.int32)
    durations[:, 2] = frames
    total = int(sum(frames))
    return teacher.Reading(
        labels=labels(phones, **fields),
        durations=durations,
        log_f0=np.full(total, 5.0, np.float32),
        cepstra=np.arange(total * dataset.CEPSTRA, dtype=np.float32).reshape(total, -1),
    )


def test_same_examples_give_the_same_text() -> None:
    """A voice can be made again: nothing in the text depends on anything but its sources."""
    heldout = sentences.read_heldout()
    assert sentences.compose(EXAMPLES, WORDS, heldout) == sentences.compose(
        EXAMPLES, WORDS, heldout
    )


def test_text_has_nothing_that_two_front_ends_read_differently() -> None:
    """Templates leave no slot open, and give no digit and no acronym."""
    corpus = sentences.compose(EXAMPLES, WORDS, sentences.read_heldout())
    for text in corpus.train + corpus.questions + corpus.heldout:
        assert re.fullmatch(r"[A-Z][A-Za-z',;. ]*[.?!]|\w+! [A-Za-z ]+\.", text), text
        assert not re.search(r"\b[A-Z]{2,}\b", text), text


def test_heldout_sentences_are_never_trained_on() -> None:
    """A held-out sentence that turns up among the examples stays out of the training text."""
    heldout = ("The cat was found again.",)
    corpus = sentences.compose(EXAMPLES, WORDS, heldout)
    assert heldout[0] not in corpus.train
    assert "The dog was found again." in corpus.train


def test_usage_examples_keep_only_sentences_of_known_words() -> None:
    """Licence lines, unknown words, digits, acronyms and fragments are left out."""
    known = {"the", "cat", "sat", "down", "nasa"}
    lines = [
        '  1 "the cat sat down" in the licence',
        '123 n 01 cat 0 | animal; "the cat sat down"; "the cat"; "the cat sat 3 down"',
        '124 n 01 dog 0 | animal; "the dog sat down"; "the NASA sat down"',
    ]
    assert sentences.usage_examples(lines, known) == {"the cat sat down"}


def test_numbers_are_spoken_ones() -> None:
    """Every number is words from the table, whatever its size."""
    templates = sentences.Templates(Random(1), WORDS)
    spoken = {templates.fill("{num}") for _ in range(500)}
    assert {len(number.split()) for number in spoken} >= {1, 2, 4}
    assert all(re.fullmatch(r"[A-Za-z ]+", number) for number in spoken)


def test_trial_corpus_is_cut_in_proportion() -> None:
    """A trial run has as large a share of the questions as of the sentences."""
    corpus = sentences.compose(EXAMPLES, WORDS, ())
    part = corpus.first(len(corpus.train) // 4)
    assert len(part.train) == len(corpus.train) // 4
    assert abs(len(part.questions) - len(corpus.questions) / 4) <= 1


def test_units_join_what_is_one_sound() -> None:
    """Diphthongs and affricates are one unit, length marks join it, stress stands alone."""
    grouped = units(["^", *EYE_CHEESE, "$"])
    assert grouped is not None
    assert [(unit.kind, unit.phone, len(unit.tokens)) for unit in grouped] == [
        (Kind.BEGIN, "", 1),
        (Kind.MARK, "", 1),
        (Kind.PHONE, "ay", 2),
        (Kind.SPACE, "", 1),
        (Kind.PHONE, "ch", 2),
        (Kind.MARK, "", 1),
        (Kind.PHONE, "iy", 2),
        (Kind.PUNCTUATION, "", 1),
        (Kind.END, "", 1),
    ]
    assert sorted(i for unit in grouped for i in unit.tokens) == list(range(2 + len(EYE_CHEESE)))


def test_foreign_sounds_make_no_units() -> None:
    """A sentence with a sound that English lacks is not guessed at."""
    assert units(["^", "ʁ", "$"]) is None


def test_alignment_of_agreeing_readings_is_free() -> None:
    """Where both front ends say the same, each phone finds its unit at no cost."""
    grouped = units(["^", *"hɛl", "$"])
    assert grouped is not None
    cost, matches = align(grouped, [PAUSE, "hh", "eh", "l", PAUSE])
    assert cost == 0
    assert matches == [Match(index, index) for index in range(5)]


def test_alignment_bridges_a_phone_that_espeak_leaves_out() -> None:
    """A phone without a token costs one, and the phones around it keep theirs."""
    grouped = units(["^", *"hɛl", "$"])
    assert grouped is not None
    cost, matches = align(grouped, [PAUSE, "hh", "eh", "z", "l", PAUSE])
    assert cost == 1
    assert [match.unit for match in matches] == [0, 1, 2, None, 3, 4]


def test_frames_are_neither_lost_nor_invented() -> None:
    """Every frame that remains belongs to a token, and silences keep no more than their due."""
    tokens = ["^", *"a\u026a", " ", "l", "$"]
    grouped = units(tokens)
    assert grouped is not None
    phones = [PAUSE, "ay", PAUSE, "l", "z", PAUSE]
    _, matches = align(grouped, phones)
    states = np.zeros((6, teacher.STATES), np.int32)
    states[:, 2] = [100, 0, 80, 7, 4, 90]
    states[1] = [3, 2, 1, 5, 6]
    track = dataset.lay_frames(tokens, grouped, matches, phones, states)
    assert track.per_token.tolist() == [12, 6, 11, 50, 11, 30]
    assert track.kept.sum() == track.per_token.sum()
    # The silence before loses its beginning, the one after its end.
    assert not track.kept[:88].any()
    assert track.kept[-90:-60].all()
    assert not track.kept[-60:].any()


def test_halving_the_time_resolution_does_not_drift() -> None:
    """However many odd durations follow each other, each token ends within 5 ms of its end."""
    frames = np.array([3, 5, 1, 7, 1, 1, 9, 0, 3] * 20)
    steps = dataset.to_steps(frames)
    assert (steps >= 0).all()
    assert np.abs(2 * np.cumsum(steps) - np.cumsum(frames)).max() <= 1


def test_utterance_lasts_as_long_as_its_tokens() -> None:
    """Ids, durations and frames of an utterance fit each other, as training takes for granted."""
    made = dataset.utterance(
        "t00000", "Hello.", reading("pau hh ax l ow pau", [40, 11, 8, 14, 40, 80])
    )
    total = int(made.durations.sum())
    assert len(made.ids) == len(made.durations)
    assert made.ids[0] == DEFAULT_PHONEME_ID_MAP["^"][0]
    assert made.ids[-1] == DEFAULT_PHONEME_ID_MAP["$"][0]
    # 60 ms of silence, 365 ms of speech, 150 ms of silence.
    assert abs(total * 10 - 575) <= 5
    assert made.cepstra.shape == (2 * total, dataset.CEPSTRA)
    assert len(made.log_f0) == len(made.voiced) == len(made.cutoff) == 2 * total


def test_utterance_of_other_words_is_dropped() -> None:
    """A sentence that the two front ends read differently teaches nothing wrong."""
    with pytest.raises(dataset.DroppedError, match="other words"):
        dataset.utterance(
            "t00000", "Hello.", reading("pau s t r eh ng th pau", [9, 9, 9, 9, 9, 9, 9, 9])
        )


def test_only_yes_or_no_questions_rise() -> None:
    """The rise begins at the last stressed syllable, grows, and spares questions that fall."""
    phones, frames = "pau hh ax l ow pau", [20, 10, 10, 10, 40, 60]
    asks = {"stressed": "ow", "ending": "H-H%"}
    rising = dataset.utterance("q00000", "Hello?", reading(phones, frames, **asks))
    falling = dataset.utterance("q00001", "Hello?", reading(phones, frames, stressed="ow"))
    stated = dataset.utterance("t00000", "Hello.", reading(phones, frames, **asks))
    assert np.ptp(falling.log_f0) == np.ptp(stated.log_f0) == 0
    rise = rising.log_f0 - falling.log_f0
    assert (np.diff(rise) >= 0).all()
    # The first vowel begins after 12 frames of silence and 30 of speech.
    assert rise[41] == 0
    assert rise[42] > 0
    assert rise[-1] == pytest.approx(dataset.RISE_NEPERS)


def test_data_set_survives_the_disk(tmp_path: Path) -> None:
    """What was saved is what is loaded, to the bit."""
    phones, frames = "pau hh ax l ow pau", [20, 10, 10, 10, 40, 60]
    made = [
        dataset.utterance("h00000", "Hello.", reading(phones, frames)),
        dataset.utterance("t00001", "Hello?", reading(phones, [9, 9, 9, 9, 9, 9])),
    ]
    dataset.save(made, tmp_path / "utterances.npz")
    for before, after in zip(made, dataset.load(tmp_path / "utterances.npz"), strict=True):
        assert (before.name, before.text, before.cost) == (after.name, after.text, after.cost)
        for field in ("ids", "durations", "cepstra", "log_f0", "voiced", "cutoff"):
            one, other = getattr(before, field), getattr(after, field)
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_reading_is_what_the_c_program_writes(tmp_path: Path) -> None:
    """Header, durations and frames are found where `hts_parameters.c` puts them."""
    for part in ("labels", "parameters"):
        (tmp_path / part).mkdir()
    (tmp_path / "labels" / "one.lab").write_text("\n".join(labels("pau ax")) + "\n")
    durations = np.arange(10, dtype=np.int32)
    rows = np.arange(3 * 46, dtype=np.float32)
    (tmp_path / "parameters" / "one.bin").write_bytes(
        np.array([2, 3, 45], np.int32).tobytes() + durations.tobytes() + rows.tobytes()
    )
    found = teacher.read(tmp_path, "one")
    assert found is not None
    assert found.phones == ["pau", "ax"]
    assert found.durations.tolist() == durations.reshape(2, 5).tolist()
    assert found.log_f0.tolist() == [0, 46, 92]
    assert found.cepstra[1].tolist() == list(range(47, 92))
    assert teacher.read(tmp_path, "two") is None


def test_borrowed_sounds_exist() -> None:
    """Every phoneme that borrows, and every one that lends, is one that Piper has an id for."""
    assert {*NEAREST, *NEAREST.values()} <= set(DEFAULT_PHONEME_ID_MAP)
    assert not [phoneme for phoneme, lender in NEAREST.items() if phoneme == lender]


def test_cutoff_knows_vowels_from_hisses() -> None:
    """Vowels are voiced further up than voiced fricatives, and those further than the rest."""
    assert cutoff_khz("aa") > cutoff_khz("z") > cutoff_khz("s")


@pytest.mark.parametrize(
    ("heard", "errors"),
    [("one two three", 0), ("one three", 1), ("one too three four", 2), ("", 3), ("x y z one", 4)],
)
def test_word_errors_are_edits(heard: str, errors: int) -> None:
    """Missing, additional and wrong words count one each, in the cheapest reading."""
    assert evaluate.word_errors(["one", "two", "three"], heard.split()) == errors


def test_spectrogram_shows_the_pitch_of_a_tone() -> None:
    """A tone is one bright line at its frequency, high frequencies on top."""
    rate = 16000
    tone = np.sin(2 * np.pi * 2000 * np.arange(rate) / rate).astype(np.float32)
    picture = evaluate.spectrogram(tone, rate)
    row = int(picture[:, picture.shape[1] // 2].argmax())
    assert row / (picture.shape[0] - 1) == pytest.approx(1 - 2000 / 8000, abs=0.01)


@pytest.mark.parametrize("rate", [16000, 24000])
def test_shipped_voice_keeps_the_contract(rate: int) -> None:
    """The voice in the package passes the checks that the recipe ends with."""
    folder = Path(__file__).parents[2] / "services" / "tts" / "embedded"
    path = folder / f"en_US-slt_tiny-{rate // 1000}k.onnx"
    assert json.loads(Path(f"{path}.json").read_text())["audio"]["sample_rate"] == rate
    assert evaluate.check_contract(evaluate.load(path))
