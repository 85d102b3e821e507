"""Makes a tiny CSM with random weights, as transformers loads it.

    python tools/models/make_csm.py OUT

Needs the dependency group `models` (torch, transformers). The model says nothing sensible: it lets
tests run transformers' own classes, CSM and its codec Mimi, without a model hub. Its sizes are
small, and its shape is the original's: 32 codebooks, 12.5 frames a second, 24 kHz. The result is
the same on every run: weights from a fixed seed, a vocabulary made by rule.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CsmConfig,
    CsmDepthDecoderConfig,
    CsmForConditionalGeneration,
    CsmProcessor,
    EncodecFeatureExtractor,
    GenerationConfig,
    MimiConfig,
    PreTrainedTokenizerFast,
)

SEED = 20
CODES = 64
"""Entries in each of the 32 codebooks: 2048 in the original."""

TEMPLATE = """\
{%- for message in messages -%}
<|begin_of_text|>[{{ message['role'] }}]
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{ part['text'] }}<|end_of_text|>
{%- else -%}<|AUDIO|><|audio_eos|>
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""
"""What a conversation looks like to the model: the form that its model card gives."""


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of bytes, with the special tokens of CSM."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={symbol: n for n, symbol in enumerate(symbols)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|AUDIO|>", "<|audio_eos|>"]
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1], pad_token=special[2]
    )


def make(out: Path) -> None:
    """Write the model, its generation settings and its processor to the folder `out`."""
    torch.manual_seed(SEED)
    tokenizer = make_tokenizer()
    sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    audio, audio_end = tokenizer.convert_tokens_to_ids(["<|AUDIO|>", "<|audio_eos|>"])
    config = CsmConfig(
        vocab_size=CODES,
        text_vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        pad_token_id=audio,
        codebook_pad_token_id=CODES - 1,
        bos_token_id=tokenizer.bos_token_id,
        audio_token_id=audio,
        audio_eos_token_id=audio_end,
        depth_decoder_config=CsmDepthDecoderConfig(
            backbone_hidden_size=32,
            vocab_size=CODES,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            **sizes,
        ),
        codec_config=MimiConfig(
            hidden_size=32,
            num_filters=4,
            codebook_size=CODES,
            codebook_dim=16,
            vector_quantization_hidden_dimension=16,
            upsample_groups=32,
            num_hidden_layers=2,
            intermediate_size=32,
            **{**sizes, "num_key_value_heads": 2},
        ),
        **sizes,
    )
    model = CsmForConditionalGeneration(config).eval()
    for name, tensor in model.codec_model.named_buffers():
        # The codebooks are all zero: without this every code would sound alike.
        if name.endswith("embed_sum"):
            torch.nn.init.normal_(tensor)
    for layer in model.modules():
        if hasattr(layer, "scale") and isinstance(layer.scale, torch.nn.Parameter):
            # As large as if trained, so that what the codec's attention does can be heard.
            torch.nn.init.constant_(layer.scale, 1.0)
    model.generation_config = GenerationConfig(
        do_sample=True, max_new_tokens=125, pad_token_id=audio
    )
    model.depth_decoder.generation_config = GenerationConfig(do_sample=True)
    model.save_pretrained(out)
    CsmProcessor(
        feature_extractor=EncodecFeatureExtractor(feature_size=1, sampling_rate=24000),
        tokenizer=tokenizer,
        chat_template=TEMPLATE,
    ).save_pretrained(out)


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("out", type=Path)
    make(arguments.parse_args().out)
