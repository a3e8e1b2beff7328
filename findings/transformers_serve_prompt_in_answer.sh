#!/usr/bin/env bash
# transformers 5.24.0, seen on 2026-11-29 with Python 3.11.
#
# `transformers serve` looks for the answer of models of Qwen's kinds (qwen2, qwen2_vl, qwen2_5_vl, qwen3, qwen3_vl, ...) behind
# the last "<|im_start|>assistant\n" of the prompt, unless the tokenizer has a response_template. If a fine-tune of such a model
# has another chat template, the prompt lacks that text. The content of the answer is then the whole prompt, special tokens
# included, followed by the answer. Finish reason and token counts look right. So compare an answer with its prompt, or give such
# a checkpoint a response_template.
#
# Output seen:
#   <|im_start|>: 'A cat.'
#   [INST]:       '[INST] What is it? [/INST] A cat.'
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q transformers==5.24.0 tokenizers==0.23.3
cat > "$work/show.py" <<'PY'
from types import SimpleNamespace

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from transformers.cli.serving.utils import parse_assistant_message

QUESTION, ANSWER = "What is it?", "A cat."
PROMPTS = {
    "<|im_start|>": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n",
    "[INST]": f"[INST] {QUESTION} [/INST] ",
}

alphabet = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
inner = Tokenizer(BPE(vocab=alphabet, merges=[]))
inner.pre_tokenizer, inner.decoder = ByteLevel(add_prefix_space=False), ByteDecoder()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>")
model = SimpleNamespace(config=SimpleNamespace(model_type="qwen2_5_vl"))

contents = {}
for name, prompt in PROMPTS.items():
    generated, given = tokenizer(ANSWER)["input_ids"], tokenizer(prompt)["input_ids"]
    contents[name], *_ = parse_assistant_message(tokenizer, model, generated, given, cleaned_content=ANSWER)
    print(f"{name + ':':13} {contents[name]!r}")
assert contents["<|im_start|>"] == ANSWER
assert contents["[INST]"] == PROMPTS["[INST]"] + ANSWER, "transformers serve no longer writes the prompt into the answer"
PY
"$work/venv/bin/python" "$work/show.py"
