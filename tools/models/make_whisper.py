"""Makes a tiny Whisper with random weights, in the shape that faster-whisper loads.

    python tools/models/make_whisper.py OUT

Needs the dependency group `models` (torch, transformers, ctranslate2). The model hears nothing
sensible: it lets tests run the real decoder, its lazy segments and its scores without a model hub.
The result is the same on every run: weights from a fixed seed, a vocabulary made by rule.
"""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from ctranslate2.converters import TransformersConverter
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

SEED = 20
LANGUAGES = ("en", "de", "fr", "es")
WORDS = ("the", "and", "you", "time", "go", "ten", "meters", "forward", "some", "thing", "do", "is")
MEL_BINS = 80
TIMESTAMPS = 1501
"""0.00 to 30.00 s in steps of 20 ms, as in every Whisper."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Whisper's special tokens in Whisper's order.

    The order matters to faster-whisper: text, `<|endoftext|>`, the other controls, timestamps last.
    """
    vocabulary: dict[str, int] = {}
    for symbol in sorted(pre_tokenizers.ByteLevel.alphabet()):
        vocabulary[symbol] = len(vocabulary)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        # A space is spelled "Ġ" in the byte-level alphabet.
        left = "Ġ"
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append((left, letter))
            left += letter
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    controls = ["<|endoftext|>", "<|startoftranscript|>"]
    controls += [f"<|{language}|>" for language in LANGUAGES]
    controls += ["<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>"]
    controls += ["<|nospeech|>", "<|notimestamps|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in controls])
    tokenizer.add_tokens(
        [AddedToken(f"<|{step * 0.02:.2f}|>", special=False) for step in range(TIMESTAMPS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|endoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
    )


def make_model(tokenizer: PreTrainedTokenizerFast) -> WhisperForConditionalGeneration:
    """A Whisper of two layers of 64, its weights drawn from `SEED`."""
    torch.manual_seed(SEED)

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    end, start = token("<|endoftext|>"), token("<|startoftranscript|>")
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        num_mel_bins=MEL_BINS,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        decoder_start_token_id=start,
        suppress_tokens=[],
        begin_suppress_tokens=[token("Ġ"), end],
        lang_to_id={f"<|{name}|>": token(f"<|{name}|>") for name in LANGUAGES},
        no_timestamps_token_id=token("<|notimestamps|>"),
        alignment_heads=[[1, 0], [1, 1]],
    )
    return model.eval()


def main() -> None:
    """Write the model to the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Make a tiny Whisper with random weights.")
    parser.add_argument("out", type=Path, help="folder to write")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    preprocessor = {
        "feature_size": MEL_BINS,
        "sampling_rate": 16000,
        "hop_length": 160,
        "chunk_length": 30,
        "n_fft": 400,
    }
    tokenizer = make_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        make_model(tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        Path(folder, "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2))
        converter = TransformersConverter(
            folder, copy_files=["tokenizer.json", "preprocessor_config.json"]
        )
        converter.convert(str(out), force=True)


if __name__ == "__main__":
    main()
