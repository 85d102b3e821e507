"""Stands for `cosyvoice.cli.frontend`."""

import re
from typing import Any

from ..utils.file_utils import load_wav, logging
from .model import BOOM, END_OF_PROMPT
from .tensor import torch

__all__ = ["CosyVoiceFrontEnd", "load_wav", "torch"]


class CosyVoiceFrontEnd:
    """What text and clips go through before the model."""

    def __init__(self, speakers: dict[str, dict[str, Any]]) -> None:
        """Know these speakers, as `spk2info.pt` has them."""
        self.spk2info = speakers
        self.text_frontend = "wetext"

    def encode(self, text: str) -> list[int]:
        """A token for each word and for the end of the prompt."""
        tokens = re.findall(r"<\|endofprompt\|>|[^\s<]+|<", text)
        known = {"<|endofprompt|>": END_OF_PROMPT, "boom": BOOM}
        return [known.get(token, 100 + len(token)) for token in tokens]

    def _extract_text_token(self, text: str) -> tuple[list[int], int]:
        tokens = self.encode(text)
        return tokens, len(tokens)

    def text_normalize(
        self, text: str, split: bool = True, text_frontend: bool = True
    ) -> list[str] | str:
        """Sentences, or the text as it is where it holds a control token."""
        if "<|" in text and "|>" in text:
            text_frontend = False
        if not text_frontend or text == "":
            return [text] if split else text
        # As wetext does, full-width characters become half-width.
        text = text.strip().translate({0xFF1C: "<", 0xFF5C: "|", 0xFF1E: ">"})
        texts = [part for part in re.split(r"(?<=[.!?]) ", text) if re.search(r"\w", part)]
        return texts if split else text

    def frontend_sft(self, text: str, spk_id: str) -> dict[str, Any]:
        """For a speaker of the model."""
        return {
            "text": self.encode(text),
            "llm_embedding": self.spk2info[spk_id]["embedding"],
        }

    def frontend_zero_shot(
        self, text: str, prompt_text: str, prompt_wav: Any, _rate: int, spk_id: str
    ) -> dict[str, Any]:
        """For a clip, or for a speaker that was made of one: then with the prompt of that time."""
        if spk_id:
            return {**self.spk2info[spk_id], "text": self.encode(text)}
        logging.info("listening to %s", prompt_wav)
        samples = load_wav(prompt_wav, 16000).shape[1]
        # Once for each: features, tokens, the speaker's voice.
        for rate in (24000, 16000):
            load_wav(prompt_wav, rate)
        tokens = samples * 25 // 16000
        return {
            "text": self.encode(text),
            "prompt_text": self.encode(prompt_text),
            "llm_prompt_speech_token": tokens,
            "flow_prompt_speech_token": tokens,
        }

    def frontend_instruct2(
        self, text: str, instruct_text: str, prompt_wav: Any, rate: int, spk_id: str
    ) -> dict[str, Any]:
        """For a clip without its words, which the instruction takes the place of."""
        model_input = self.frontend_zero_shot(text, instruct_text, prompt_wav, rate, spk_id)
        del model_input["llm_prompt_speech_token"]
        return model_input
