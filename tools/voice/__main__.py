"""The recipe, step by step or all at once: `python -m tools.voice --help`."""

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from tools.voice import compare, dataset, evaluate, sentences, teacher, train
from tools.voice.export import export, load_model
from tools.voice.vocoder import Vocoder

RATES = ((24000, False), (16000, True))
"""The sample rates that are shipped, and whether their weights are stored as float16."""

STEPS = ("prepare", "train", "export", "evaluate", "compare")
DEFAULT_STEPS = STEPS[:-1]


class Workshop:
    """The steps of the recipe in one work folder. Each finds what those before it left there."""

    def __init__(self, folder: Path, jobs: int):
        """Work in `folder`, with `jobs` processes or threads at a time."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.jobs = jobs
        self.data = folder / "utterances.npz"
        self.checkpoint = folder / "voice.pt"

    def voice(self, sample_rate: int) -> Path:
        """Where the voice of that rate is."""
        return self.folder / f"en_US-slt_tiny-{sample_rate // 1000}k.onnx"

    def prepare(self, count: int | None) -> None:
        """Text, labels, parameters and the data set, from `count` sentences or all."""
        corpus = sentences.corpus(evaluate.DICTIONARY)
        if count is not None:
            corpus = corpus.first(count)
        (self.folder / "unseen.txt").write_text("\n".join(corpus.unseen) + "\n", encoding="utf-8")
        named = dataset.named(corpus)
        teacher.speak(named, self.folder / "teacher", self.jobs)
        utterances, dropped = dataset.build(named, self.folder / "teacher", self.jobs)
        dataset.save(utterances, self.data)
        hours = sum(item.seconds for item in utterances) / 3600
        print(f"{len(utterances)} utterances, {hours:.2f} h; dropped: {dict(dropped) or 'none'}")

    def train(self, minutes: float, fine_tune_minutes: float) -> None:
        """Train from scratch, then fine-tune."""
        utterances = dataset.load(self.data)
        first = self.folder / "first.pt"
        train.train(
            utterances, first, replace(train.FROM_SCRATCH, minutes=minutes), threads=self.jobs
        )
        train.train(
            utterances,
            self.checkpoint,
            replace(train.FINE_TUNE, minutes=fine_tune_minutes),
            resume=first,
            threads=self.jobs,
        )

    def export(self) -> None:
        """Write the voices."""
        model = load_model(self.checkpoint)
        for sample_rate, float16 in RATES:
            path = self.voice(sample_rate)
            export(model, path, sample_rate, float16=float16)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")

    def evaluate(self) -> None:
        """Contract, intelligibility and speed of the voices, and a look at one sentence."""
        texts = {"held-out": sentences.read_heldout()}
        unseen = self.folder / "unseen.txt"
        if unseen.exists():
            texts["unseen"] = tuple(unseen.read_text(encoding="utf-8").splitlines())
        pictures = []
        for sample_rate, _ in RATES:
            voice = evaluate.load(self.voice(sample_rate))
            print(f"\n{self.voice(sample_rate).name}")
            print("  " + "\n  ".join(evaluate.check_contract(voice)))
            for name, lines in texts.items():
                say = partial(evaluate.speak, voice)
                result = evaluate.intelligibility(say, sample_rate, lines)
                print(
                    f"  word error rate, {len(lines)} {name} sentences: "
                    f"{100 * result.rate:.1f}% ({result.errors} of {result.words})"
                )
            for timing in evaluate.time_speech(voice):
                print(
                    f"  {timing.words} words: {1000 * timing.seconds:.1f} ms for "
                    f"{timing.audio_seconds:.2f} s of audio"
                )
            samples = evaluate.speak(voice, sentences.read_heldout()[0])
            pictures.append(evaluate.spectrogram(samples, sample_rate))
        evaluate.draw(pictures, self.folder / "spectrogram.png")

    def compare(self) -> None:
        """The student against the teacher on the held-out sentences."""
        items = [u for u in dataset.load(self.data) if u.name.startswith(dataset.HELDOUT)]
        print(compare.prosody(load_model(self.checkpoint), items))
        by_text = {item.text: item for item in items}
        for sample_rate, _ in RATES:
            say = partial(_say_as_teacher, Vocoder(sample_rate), by_text)
            result = evaluate.intelligibility(say, sample_rate, list(by_text))
            print(f"teacher through our vocoder, {sample_rate} Hz: {100 * result.rate:.1f}%")


def _say_as_teacher(
    vocoder: Vocoder, items: Mapping[str, dataset.Utterance], text: str
) -> evaluate.Samples:
    return compare.copy_synthesis(vocoder, items[text])


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the steps that the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.voice", description="Make the embedded voice, from text alone."
    )
    parser.add_argument(
        "steps",
        nargs="*",
        metavar="step",
        help=f"some of {', '.join(STEPS)}, in order (default: {' '.join(DEFAULT_STEPS)})",
    )
    parser.add_argument("--work", type=Path, default=Path(".cache/voice"), help="work folder")
    parser.add_argument("--sentences", type=int, help="training sentences (default: all 11,652)")
    parser.add_argument("--minutes", type=float, default=train.FROM_SCRATCH.minutes)
    parser.add_argument("--fine-tune-minutes", type=float, default=train.FINE_TUNE.minutes)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cores to use")
    options = parser.parse_args(arguments)
    steps = options.steps or DEFAULT_STEPS
    for step in steps:
        if step not in STEPS:
            parser.error(f"no step is called {step!r}: choose from {', '.join(STEPS)}")
    workshop = Workshop(options.work, options.jobs)
    for step in steps:
        match step:
            case "prepare":
                workshop.prepare(options.sentences)
            case "train":
                workshop.train(options.minutes, options.fine_tune_minutes)
            case "export":
                workshop.export()
            case "evaluate":
                workshop.evaluate()
            case "compare":
                workshop.compare()


if __name__ == "__main__":
    main()
