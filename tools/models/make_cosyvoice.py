"""Makes a CosyVoice 2 or 3 model with random weights, in the shape that CosyVoice loads.

    python tools/models/make_cosyvoice.py OUT --repo COSYVOICE [--version 2|3] [--size small|full]

Run it with an interpreter that has CosyVoice's packages (see docs/engines/cosyvoice.md) and onnx.
The layers are those of the recipe in the repository's `examples/libritts`, their sizes shrunk or,
with `--size full`, as they are. It utters noise: twenty speech tokens (0.8 s) for each text token,
which for the words in `WORDS` is each word, so that a text's length in samples is known ahead.
"""

import argparse
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

SEED = 20
SPEECH_TOKENS = 6561
FIRST_SPECIAL = 151643
"""The number of `<|endoftext|>` in Qwen2's vocabulary; CosyVoice 3 counts on what follows it."""

WORDS = ["a", "the", "and", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
WORDS += ["ten", "hello", "world", "how", "are", "you", "what", "is", "said", "in", "clip", "time"]
WORDS += ["You", "helpful", "assistant"]
"""Words that are one token each, with the blank before them; of others each letter is one."""

KEPT = {"sample_rate", "llm_input_size", "llm_output_size", "spk_embed_dim", "qwen_pretrain_path"}
KEPT |= {"token_frame_rate", "token_mel_ratio", "chunk_size", "num_decoding_left_chunks", "llm"}
KEPT |= {"flow", "hift", "get_tokenizer", "allowed_special", "feat_extractor"}
"""What of the recipe a model's folder has: the rest is for training and needs more packages."""

SHRUNK = {
    "llm_input_size": "64",
    "llm_output_size": "64",
    "attention_heads": "2",
    "linear_units": "64",
    "num_blocks": "1",
    "channels": "[32]",
    "attention_head_dim": "8",
    "n_blocks": "1",
    "num_mid_blocks": "1",
    "num_heads": "2",
    "dim": "64",
    "depth": "2",
    "heads": "2",
    "dim_head": "32",
    "base_channels": "64",
    "cond_channels": "32",
}
"""Sizes instead of the recipe's. The encoder of version 2 stays at 512: its look-ahead layer is
written for that."""

QWEN: dict[str, dict[str, int]] = {
    "small": {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
    },
    # Qwen2-0.5B, which both versions are built on.
    "full": {
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
    },
}


def write_language_model(out: Path, size: str) -> None:
    """Write the Qwen2 model and its tokenizer: configuration, weights, vocabulary."""
    vocabulary = {s: n for n, s in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges: list[tuple[str, str]] = []
    # A blank is spelled "Ġ" in the byte-level alphabet.
    # Those with a blank first: what is merged first has the blank taken.
    for word in [*(f"Ġ{word}" for word in WORDS), *WORDS]:
        left = word[0]
        for letter in word[1:]:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append((left, letter))
            left += letter
    for number in range(len(vocabulary), FIRST_SPECIAL):
        vocabulary[f"filler{number}"] = number
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(out)
    config = Qwen2Config(
        vocab_size=151936,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        bos_token_id=FIRST_SPECIAL,
        eos_token_id=FIRST_SPECIAL,
        **QWEN[size],
    )
    Qwen2ForCausalLM(config).save_pretrained(out)


def write_config(repo: Path, out: Path, version: int, size: str) -> Path:
    """Write the model's yaml, made of the recipe's."""
    name = f"cosyvoice{version}"
    recipe = (repo / "examples/libritts" / name / f"conf/{name}.yaml").read_text("utf-8")
    # A block is a line that starts with its key and the lines that are indented under it.
    blocks = re.findall(r"^(\w+):(.*(?:\n[ \t]+.*|\n(?=[ \t]))*)", recipe, re.MULTILINE)
    text = "\n".join(f"{key}:{body}" for key, body in blocks if key in KEPT) + "\n"
    if size == "small":
        for key, value in SHRUNK.items():
            text = re.sub(rf"^(\s*{key}:) [^!\n]*$", rf"\1 {value}", text, flags=re.MULTILINE)
        # Of the look-ahead layer of version 3, which has sizes of the same name.
        text = text.replace(
            "channels: [32]\n        pre_lookahead_len", "channels: 64\n        pre_lookahead_len"
        )
    path = out / f"{name}.yaml"
    path.write_text(text, "utf-8")
    return path


def write_weights(config: Path, out: Path) -> None:
    """Write the parts with random weights, and a speaker in `spk2info.pt`."""
    load = import_module("hyperpyyaml").load_hyperpyyaml
    overrides = {"qwen_pretrain_path": str(out / "CosyVoice-BlankEN")}
    with config.open() as file:
        parts: dict[str, Any] = load(file, overrides=overrides)
    decoder = parts["llm"].llm_decoder
    with torch.no_grad():
        # Far apart, so that some 25 tokens are likely and those that end speech never are: with
        # all alike, an utterance would end at a random token.
        decoder.weight.normal_(0, 1)
        decoder.weight[SPEECH_TOKENS:] = 0
        if decoder.bias is not None:
            decoder.bias.zero_()
    for name in ("llm", "flow", "hift"):
        torch.save(parts[name].state_dict(), out / f"{name}.pt")
    torch.save({"speaker": {"embedding": torch.randn(1, 192)}}, out / "spk2info.pt")


def write_graph(
    path: Path, nodes: list[Any], inputs: list[Any], output: Any, **consts: Any
) -> None:
    """Write an ONNX model of a few nodes."""
    initializers = [helper.make_tensor(k, t, shape, v) for k, (t, shape, v) in consts.items()]
    graph = helper.make_graph(nodes, path.stem, inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))


def write_front_ends(out: Path, version: int) -> None:
    """Write what looks at the reference clip: the speaker's embedding and the speech tokens."""
    info, f32, i32 = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT32
    projection = torch.randn(80, 192).flatten().tolist()
    write_graph(
        out / "campplus.onnx",
        [
            helper.make_node("ReduceMean", ["feat"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "projection"], ["embedding"]),
        ],
        [info("feat", f32, [1, "T", 80])],
        info("embedding", f32, [1, 192]),
        projection=(f32, [80, 192], projection),
    )
    i64 = TensorProto.INT64
    write_graph(
        out / f"speech_tokenizer_v{version}.onnx",
        [
            helper.make_node("ReduceMean", ["feats"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("Slice", ["mean", "first", "last", "axis", "step"], ["some"]),
            helper.make_node("Abs", ["some"], ["positive"]),
            helper.make_node("Mul", ["positive", "scale"], ["scaled"]),
            helper.make_node("Clip", ["scaled", "least", "most"], ["clipped"]),
            helper.make_node("Cast", ["clipped"], ["tokens"], to=i32),
        ],
        [info("feats", f32, [1, 128, "T"]), info("feats_length", i32, [1])],
        info("tokens", i32, [1, "N"]),
        first=(i64, [1], [0]),
        last=(i64, [1], [1 << 40]),
        axis=(i64, [1], [1]),
        step=(i64, [1], [4]),
        scale=(f32, [], [1000.0]),
        least=(f32, [], [0.0]),
        most=(f32, [], [SPEECH_TOKENS - 1.0]),
    )


def main() -> None:
    """Read the command line and make the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument("--repo", type=Path, required=True, help="a checkout of CosyVoice")
    parser.add_argument("--version", type=int, choices=(2, 3), default=3)
    parser.add_argument("--size", choices=QWEN, default="small")
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    sys.path += [str(options.repo), str(options.repo / "third_party/Matcha-TTS")]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(SEED)
    write_language_model(out / "CosyVoice-BlankEN", options.size)
    config = write_config(options.repo, out, options.version, options.size)
    write_weights(config, out)
    write_front_ends(out, options.version)
    total = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
