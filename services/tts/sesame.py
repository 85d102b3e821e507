"""Sesame's Conversational Speech Model (CSM), as transformers has it.

Importing this module needs the `sesame` extra. The model's code and weights are Apache-2.0.
"""

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

import numpy as np

from services.catalog import Loaded
from services.errors import EngineError, MissingExtraError, UnavailableError, one_line
from services.settings import EngineSettings, blame
from services.tts.engine import SpeechEngine, VoiceInfo
from services.tts.estimate import duration
from services.tts.pieces import pieces
from services.tts.references import Reference, find_references
from services.tts.torch_engine import (
    Samples,
    TorchEngine,
    blame_model,
    choose_device,
    go_offline,
)
from services.tts.voices import Progress

try:
    import torch
    from transformers import AutoProcessor, CsmForConditionalGeneration, DynamicCache
    from transformers.generation.streamers import BaseStreamer
except ImportError as missing:
    raise MissingExtraError(
        f"Sesame needs the package {missing.name}: pip install 'parley[sesame]'"
    ) from missing

PIECE = 240
"""Characters that are spoken at a time: some 17 s, where the model's context, which holds the clip
as well, ends at 164 s (2048 positions)."""

CONTEXT = 10
"""Positions, of 40 ms, that Mimi's convolutions look back by less than: 6 for the first, with its
kernel of 7, one for each of its four upsamplings, less than one for what works on finer ones."""

_SPEAKER = "speaker-"
_SPEAKERS = 2


class SesameEngine(TorchEngine[Any]):
    """Speaks with CSM, a frame of 80 ms at a time; see `SpeechEngine`.

    transformers gives the codes of a frame through a streamer as soon as they are known, and
    decodes audio for whole utterances only. `Decoder` decodes it frame by frame, with the same
    result.

    The model speaks English. It continues what it hears: a clip makes it speak with that voice, and
    without a clip every piece of text may get another. It has no pace to set: speed is made of its
    audio.
    """

    name = "sesame"

    def __init__(
        self,
        model: str,
        *,
        device: str = "auto",
        references: Mapping[str, Reference] | None = None,
        default_voice: str | None = None,
        offline: bool = False,
    ) -> None:
        """Take the settings; nothing is loaded before `load` or the first `speak`.

        Args:
            model: A folder that transformers wrote, or a name on the Hugging Face hub.
            device: `auto`, `cpu` or `cuda`.
            references: The clips that voices are cloned from.
            default_voice: The voice where none is asked for; None for the first clip, or without
                clips a voice by chance.
            offline: Fetch nothing.

        Raises:
            EngineError: There is no such folder or device.
            UnknownVoiceError: There is no voice of that name.
        """
        if model.startswith((".", "/", "~")) and not Path(model).expanduser().is_dir():
            raise EngineError(f"CSM model {model!r}: no such folder")
        if offline:
            go_offline()
        self._offline = offline
        built_in = tuple(
            VoiceInfo(f"{_SPEAKER}{n}", f"Speaker {n}, a voice by chance", "en")
            for n in range(_SPEAKERS)
        )
        super().__init__(
            model, choose_device(device), references or {}, built_in, "en", default_voice
        )

    def _load_model(self) -> tuple[Any, int]:
        path = Path(self.model).expanduser()
        try:
            if path.is_dir():
                model, processor = self._from_pretrained(str(path), local=True)
            else:
                model, processor = self._from_hub()
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(
                f"the CSM model {self.model} cannot be loaded: {one_line(error)}"
            ) from error
        return _Csm(model, processor, self.device), processor.feature_extractor.sampling_rate

    def _from_hub(self) -> tuple[Any, Any]:
        with suppress(OSError):
            # What is here is not asked for on the hub.
            return self._from_pretrained(self.model, local=True)
        unavailable = f"the CSM model {self.model} is not in the Hugging Face cache and "
        if self._offline:
            raise UnavailableError(unavailable + "may not be fetched: this run is offline")
        try:
            return self._from_pretrained(self.model, local=False)
        except OSError as error:
            raise UnavailableError(
                f"{unavailable}cannot be fetched; where it asks for terms to be accepted, do so on "
                f"its page and log in with 'hf auth login': {one_line(error)}"
            ) from error

    def _from_pretrained(self, name: str, *, local: bool) -> tuple[Any, Any]:
        processor = AutoProcessor.from_pretrained(name, local_files_only=local)
        dtype = torch.bfloat16 if self.device == "cuda" else torch.float32
        model = CsmForConditionalGeneration.from_pretrained(
            name, local_files_only=local, dtype=dtype
        )
        # Half precision would be heard in the codec, whose part of the work is small.
        model.codec_model.float()
        return model.to(self.device).eval(), processor

    def _prepare(self, model: Any, voice: VoiceInfo, reference: Reference | None) -> Any:
        if reference is None:
            return voice.name.removeprefix(_SPEAKER), []
        samples = reference.samples(model.processor.feature_extractor.sampling_rate)
        said = [{"type": "text", "text": reference.text}, {"type": "audio", "path": samples}]
        return "0", [{"role": "0", "content": said}]

    def _synthesize(
        self, model: Any, state: Any, voice: VoiceInfo, text: str, speed: float, stop: Event
    ) -> Generator[Samples, None, None]:
        role, said = state
        for piece in pieces(text, PIECE):
            turn = {"role": role, "content": [{"type": "text", "text": piece}]}
            # Twice what the text should last, and 1 s: a model that finds no end is stopped there.
            most = math.ceil((2 * duration(piece) + 1) * model.frame_rate)
            yield from model.speak([*said, turn], most, stop)


class _Csm:
    """A model and what prepares its input.

    Attributes:
        processor: Makes the model's input of a conversation.
        frame_rate: Frames a second.
    """

    def __init__(self, model: Any, processor: Any, device: str) -> None:
        self.processor = processor
        self.frame_rate = model.config.codec_config.frame_rate
        self._model = model
        self._device = device

    def speak(
        self, conversation: list[dict[str, Any]], most: int, stop: Event
    ) -> Generator[Samples, None, None]:
        """Continue a conversation with the audio of its last turn.

        Args:
            conversation: What transformers calls one, as CSM's template takes it.
            most: Frames at most.
            stop: Set to end it within a frame.

        Yields:
            Samples as soon as they are known.
        """
        inputs = self.processor.apply_chat_template(conversation, tokenize=True, return_dict=True)
        inputs = inputs.to(self._device)
        decoder = Decoder(self._model.codec_model)
        frames = _Frames(stop)
        thread = Thread(target=self._generate, args=(inputs, most, frames), daemon=True)
        thread.start()
        try:
            for codes in frames:
                ends = (codes == self._model.config.codebook_eos_token_id).all(dim=1)
                count = int(ends.int().argmax()) if ends.any() else len(codes)
                if count:
                    yield decoder.push(codes[:count].to(self._device))
        finally:
            frames.leave()
            thread.join()

    def _generate(self, inputs: Any, most: int, frames: "_Frames") -> None:
        try:
            self._model.generate(**inputs, max_new_tokens=most, streamer=frames)
            frames.end()
        except _LeftError:
            frames.end()
        except BaseException as error:
            frames.fail(error)


class _LeftError(Exception):
    """Nobody wants the frames any more."""


class _Frames(BaseStreamer):  # type: ignore[misc]  # transformers is not typed here.
    """Hands frames from the thread that generates them to the one that decodes them.

    CSM takes no stopping criteria (transformers drops them with a warning), but what a streamer
    raises ends it.
    """

    def __init__(self, stop: Event) -> None:
        self._stop = stop
        self._left = Event()
        self._seen_prompt = False
        self._queue: SimpleQueue[torch.Tensor | BaseException | None] = SimpleQueue()

    def put(self, value: "torch.Tensor") -> None:
        """Take a frame: codes of shape (1, codebooks). What comes first is the prompt."""
        if self._stop.is_set() or self._left.is_set():
            raise _LeftError
        if self._seen_prompt:
            self._queue.put(value)
        self._seen_prompt = True

    def end(self) -> None:
        """Take note that no frame follows."""
        self._queue.put(None)

    def fail(self, error: BaseException) -> None:
        """Take note of what went wrong."""
        self._queue.put(error)

    def leave(self) -> None:
        """Ask for no more frames."""
        self._left.set()

    def __iter__(self) -> Iterator["torch.Tensor"]:
        """All frames that are there, each time: codes of shape (frames, codebooks)."""
        last: torch.Tensor | BaseException | None
        while True:
            frames = []
            last = self._queue.get()
            with suppress(Empty):
                while isinstance(last, torch.Tensor):
                    frames.append(last)
                    last = self._queue.get_nowait()
            if frames:
                yield torch.cat(frames)
            if isinstance(last, BaseException):
                raise last
            if last is None:
                return


class Decoder:
    """Mimi's decoder for one utterance that comes in parts.

    All of Mimi is causal. Its transformer keeps keys and values, as it does for text; before and
    behind it are convolutions, which get the last positions of the part before once more. What
    comes out is what the codec's `decode` gives for all parts together, up to rounding.
    """

    def __init__(self, codec: Any) -> None:
        """Begin an utterance.

        Args:
            codec: A `MimiModel`.
        """
        self._codec = codec
        self._cache = DynamicCache(config=codec.decoder.config)
        self._latents: torch.Tensor | None = None
        self._hidden: torch.Tensor | None = None

    @torch.inference_mode()
    def push(self, codes: "torch.Tensor") -> Samples:
        """Decode the frames that follow.

        Args:
            codes: Shape (frames, codebooks).

        Returns:
            Their samples: `frame_size` of the codec for each.
        """
        codec, decoder = self._codec, self._codec.decoder
        # A code that only the language model has would end a GPU's process.
        codes = codes.clamp(max=codec.config.codebook_size - 1)
        latents = codec.quantizer.decode(codes.T[None])
        stride = codec.config.latent_stride
        known, latents = self._latents, _behind(self._latents, latents)
        self._latents = latents[..., -1:]
        upsampled = decoder.upsample(latents)
        if known is not None:
            upsampled = upsampled[..., stride:]
        hidden = decoder.decoder_transformer(
            upsampled.transpose(1, 2), past_key_values=self._cache
        ).last_hidden_state.transpose(1, 2)
        samples = decoder.decoder_seanet(_behind(self._hidden, hidden))
        self._hidden = _behind(self._hidden, hidden)[..., -CONTEXT:]
        wanted: Samples = (
            samples[0, 0, -len(codes) * codec.config.frame_size :].float().cpu().numpy()
        )
        return np.ascontiguousarray(wanted)


def _behind(before: "torch.Tensor | None", new: "torch.Tensor") -> "torch.Tensor":
    return new if before is None else torch.cat([before, new], dim=-1)


def build(settings: EngineSettings, voice: str | None, progress: Progress) -> Loaded[SpeechEngine]:
    """Make the engine that the settings ask for, and load its model; see `services.catalog`."""
    del progress  # The Hugging Face client shows its own.
    with blame("--tts-references"):
        references = find_references(settings.tts_references)
    with blame("--tts-device"):
        device = choose_device(settings.tts_device)
    with blame_model("--sesame-model"):
        engine = SesameEngine(
            settings.sesame_model,
            device=device,
            references=references,
            default_voice=voice,
            offline=settings.offline,
        )
    engine.load()
    return Loaded(engine, engine.voices()[0].name, f"{settings.sesame_model}, {device}")
