"""Make model.gguf and mmproj.gguf, a random Qwen2.5-VL for llama.cpp: ``python tests/golden/gguf/make.py [FOLDER]``.

The same version of NumPy makes the same bytes. Names of tensors and keys are those of ``convert_hf_to_gguf.py`` of
llama.cpp. Weights are float32, so that an answer does not depend on the other requests of a batch.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from gguf import GGUFWriter

HERE = Path(__file__).parent
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
NORMAL_TOKEN, CONTROL_TOKEN = 1, 3
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, HEADS, KV_HEADS, FFN, LAYERS, CONTEXT = 64, 4, 2, 96, 2, 16384
EYE, EYE_HEADS, EYE_FFN, EYE_LAYERS, PATCH, MERGED = 32, 2, 48, 4, 14, 4


class Weights:
    """Writes random tensors. ``name``: as in the file."""

    def __init__(self, writer: GGUFWriter, seed: int) -> None:
        self._writer, self._random = writer, np.random.default_rng(seed)

    def matrix(self, name: str, *shape: int, std: float = 0.3) -> None:
        """Write a tensor of normal numbers. Its shape is (outputs, inputs, ...)."""
        self._writer.add_tensor(f"{name}.weight", self._random.normal(0, std, shape).astype(np.float32))

    def linear(self, name: str, outputs: int, inputs: int) -> None:
        """Write a matrix with a bias."""
        self.matrix(name, outputs, inputs)
        self._writer.add_tensor(f"{name}.bias", self._random.normal(0, 0.3, outputs).astype(np.float32))

    def norm(self, name: str, width: int) -> None:
        """Write the weights of a norm: ones."""
        self._writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))


def byte_characters() -> list[str]:
    """Return the character that stands for each byte in tokenizers of the family of GPT-2."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return [chr(byte) if byte in kept else chr(256 + others.index(byte)) for byte in range(256)]


def write_tokenizer(writer: GGUFWriter) -> int:
    """Write a tokenizer of bytes with one merge, which llama.cpp needs. Return the number of its tokens."""
    tokens = [*byte_characters(), "he", *SPECIAL]
    place = {token: number for number, token in enumerate(tokens)}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL_TOKEN if token in SPECIAL else NORMAL_TOKEN for token in tokens])
    writer.add_token_merges(["h e"])
    writer.add_bos_token_id(place["<|endoftext|>"])
    writer.add_eos_token_id(place["<|im_end|>"])
    writer.add_pad_token_id(place["<|endoftext|>"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def write_text(path: Path) -> None:
    """Write the decoder."""
    writer = GGUFWriter(path, "qwen2vl")
    writer.add_name("Random Qwen2.5-VL")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    writer.add_layer_norm_rms_eps(1e-6)
    tokens = write_tokenizer(writer)
    weights = Weights(writer, seed=1)
    weights.matrix("token_embd", tokens, WIDTH)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        weights.norm(f"{block}.attn_norm", WIDTH)
        weights.linear(f"{block}.attn_q", WIDTH, WIDTH)
        weights.linear(f"{block}.attn_k", WIDTH * KV_HEADS // HEADS, WIDTH)
        weights.linear(f"{block}.attn_v", WIDTH * KV_HEADS // HEADS, WIDTH)
        weights.matrix(f"{block}.attn_output", WIDTH, WIDTH)
        weights.norm(f"{block}.ffn_norm", WIDTH)
        weights.matrix(f"{block}.ffn_gate", FFN, WIDTH)
        weights.matrix(f"{block}.ffn_up", FFN, WIDTH)
        weights.matrix(f"{block}.ffn_down", WIDTH, FFN)
    weights.norm("output_norm", WIDTH)
    weights.matrix("output", tokens, WIDTH)
    finish(writer)


def write_eye(path: Path) -> None:
    """Write the vision tower and the projector."""
    writer = GGUFWriter(path, "clip")
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type("qwen2.5vl_merger")
    writer.add_vision_image_size(560)
    writer.add_vision_patch_size(PATCH)
    writer.add_vision_embedding_length(EYE)
    writer.add_vision_feed_forward_length(EYE_FFN)
    writer.add_vision_projection_dim(WIDTH)
    writer.add_vision_block_count(EYE_LAYERS)
    writer.add_vision_head_count(EYE_HEADS)
    writer.add_vision_attention_layernorm_eps(1e-6)
    writer.add_vision_image_mean([0.48145466, 0.4578275, 0.40821073])
    writer.add_vision_image_std([0.26862954, 0.26130258, 0.27577711])
    writer.add_vision_use_silu(True)
    writer.add_vision_n_wa_pattern(2)
    weights = Weights(writer, seed=2)
    weights.matrix("v.patch_embd", EYE, 3, PATCH, PATCH, std=0.05)
    writer.add_tensor("v.patch_embd.weight.1", np.zeros((EYE, 3, PATCH, PATCH), np.float32))
    for layer in range(EYE_LAYERS):
        block = f"v.blk.{layer}"
        weights.norm(f"{block}.ln1", EYE)
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            weights.linear(f"{block}.{name}", EYE, EYE)
        weights.norm(f"{block}.ln2", EYE)
        weights.linear(f"{block}.ffn_gate", EYE_FFN, EYE)
        weights.linear(f"{block}.ffn_up", EYE_FFN, EYE)
        weights.linear(f"{block}.ffn_down", EYE, EYE_FFN)
    weights.norm("v.post_ln", EYE)
    weights.linear("mm.0", MERGED * EYE, MERGED * EYE)
    weights.linear("mm.2", WIDTH, MERGED * EYE)
    finish(writer)


def finish(writer: GGUFWriter) -> None:
    """Write the file."""
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make(folder: Path) -> None:
    """Write both files to a folder."""
    write_text(folder / "model.gguf")
    write_eye(folder / "mmproj.gguf")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
