"""Stands for `cosyvoice.cli.model`, its faults included.

- `token_hop_len` is the object's: it grows in one utterance and is never set back.
- `llm_job` says that it has ended only if it ends well. `tts` waits for that, ten times a second.
- What is kept for an utterance goes after its last output. Nothing goes, and nothing stops, when
  the generator is closed.
- `speed` has no effect on a stream.
"""

import math
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from .tensor import Module, ModuleList, Tensor

SAMPLES_PER_TOKEN = 960
HELD_BACK = 3840
"""Samples at the end of a stream's output that come with the next."""

TOKENS_PER_WORD = 20
END_OF_PROMPT = 151646
BOOM = 13
"""The text token that the language model fails on."""


class Layer(Module):
    """Takes its time, as a kernel does that has let go of the GIL."""

    def __init__(self, seconds: float) -> None:
        """Take `seconds` for a pass."""
        super().__init__()
        self._seconds = seconds

    def forward(self, *_inputs: Any) -> None:
        """Compute."""
        time.sleep(self._seconds)


class CausalLM(Module):
    """Transformers' Qwen2: layers, and a head that nobody reads."""

    def __init__(self, seconds: float) -> None:
        """Take `seconds` for a token."""
        super().__init__()
        self.layers = ModuleList([Layer(seconds / 2), Layer(seconds / 2)])
        self.lm_head = Module()

    def forward(self, *_inputs: Any) -> None:
        """Compute a token."""
        for layer in self.layers:
            layer()
        self.lm_head(None)


class Encoder(Module):
    """`cosyvoice.llm.llm.Qwen2Encoder`."""

    def __init__(self, seconds: float) -> None:
        """Take `seconds` for a token."""
        super().__init__()
        self.model = CausalLM(seconds)


class LanguageModel(Module):
    """`cosyvoice.llm.llm.Qwen2LM` or `CosyVoice3LM`."""

    def __init__(self, version: int, seconds: float) -> None:
        """Take `seconds` for a token."""
        super().__init__()
        self.llm = Encoder(seconds)
        self._version = version

    def inference(self, text: list[int], prompt_text: list[int], uuid: str = "") -> Iterator[int]:
        """The speech tokens of a text: their number says which text token they are of."""
        together = prompt_text + text
        if self._version == 3:
            assert END_OF_PROMPT in together, "<|endofprompt|> not detected, check your input!"
        # A prompt in the text is none of what is said.
        said = text[text.index(END_OF_PROMPT) + 1 :] if END_OF_PROMPT in text else text
        for word in said:
            if word == BOOM:
                raise ValueError("should not get token 6563")
            for _ in range(TOKENS_PER_WORD):
                self.llm.model()
                yield word


class Flow(Module):
    """The flow, with ten steps through two blocks for each output, and the vocoder's layer."""

    pre_lookahead_len = 3

    def __init__(self, seconds: float) -> None:
        """Take `seconds` for an output."""
        super().__init__()
        self.blocks = ModuleList([Layer(seconds / 20), Layer(seconds / 20)])

    def inference(self) -> None:
        """Compute an output."""
        for _ in range(10):
            for block in self.blocks:
                block()


class CosyVoice2Model:
    """A model."""

    def __init__(self, llm: Any, flow: Any, hift: Any) -> None:
        """Put the parts together."""
        self.llm, self.flow, self.hift = llm, flow, hift
        self.token_hop_len = 25
        self.token_max_hop_len = 100
        self.stream_scale_factor = 2
        self.lock = threading.Lock()
        self.tts_speech_token_dict: dict[str, list[int]] = {}
        self.llm_end_dict: dict[str, bool] = {}
        self.hift_cache_dict: dict[str, int] = {}

    def llm_job(
        self,
        text: list[int],
        prompt_text: list[int],
        llm_prompt_speech_token: Any,
        llm_embedding: Any,
        uuid: str,
    ) -> None:
        """Collect an utterance's tokens."""
        for token in self.llm.inference(text=text, prompt_text=prompt_text, uuid=uuid):
            self.tts_speech_token_dict[uuid].append(token)
        self.llm_end_dict[uuid] = True

    def token2wav(self, tokens: list[int], uuid: str, finalize: bool) -> Tensor:
        """What is new in the sound of all tokens so far: each sounds as high as its number."""
        if not tokens:
            raise RuntimeError("Calculated padded input size per channel: (0). Kernel size: (4).")
        self.flow.inference()
        self.hift()
        sound = np.repeat(np.asarray(tokens, np.float32) / 1000, SAMPLES_PER_TOKEN)
        end = len(sound) if finalize else len(sound) - HELD_BACK
        start, self.hift_cache_dict[uuid] = self.hift_cache_dict[uuid], end
        return Tensor(sound[None, start:end])

    def tts(
        self,
        text: list[int],
        prompt_text: list[int] | None = None,
        llm_prompt_speech_token: Any = None,
        flow_prompt_speech_token: int = 0,
        llm_embedding: Any = None,
        stream: bool = False,
        speed: float = 1.0,
        **_others: Any,
    ) -> Iterator[dict[str, Tensor]]:
        """Speak one part of a text."""
        mine = str(uuid.uuid1())
        with self.lock:
            self.tts_speech_token_dict[mine], self.llm_end_dict[mine] = [], False
            self.hift_cache_dict[mine] = 0
        thread = threading.Thread(
            target=self.llm_job,
            args=(text, prompt_text or [], llm_prompt_speech_token, llm_embedding, mine),
        )
        thread.start()
        tokens = self.tts_speech_token_dict[mine]
        done = 0
        if stream:
            # With the prompt's tokens, the first output is a whole number of hops.
            hop = self.token_hop_len
            extra = math.ceil(flow_prompt_speech_token / hop) * hop - flow_prompt_speech_token
            while True:
                time.sleep(0.1)
                want = self.token_hop_len + (extra if done == 0 else 0)
                if len(tokens) - done >= want + self.flow.pre_lookahead_len:
                    done += want
                    sound = self.token2wav(tokens[:done], mine, False)
                    self.token_hop_len = min(
                        self.token_max_hop_len, self.token_hop_len * self.stream_scale_factor
                    )
                    yield {"tts_speech": sound.cpu()}
                if (
                    self.llm_end_dict[mine]
                    and len(tokens) - done < want + self.flow.pre_lookahead_len
                ):
                    break
        thread.join()
        yield {"tts_speech": self.token2wav(tokens, mine, True).cpu()}
        with self.lock:
            self.tts_speech_token_dict.pop(mine)
            self.llm_end_dict.pop(mine)
            self.hift_cache_dict.pop(mine)


class CosyVoice3Model(CosyVoice2Model):
    """A model of version 3."""
