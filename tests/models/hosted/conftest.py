"""Real vision servers with small random models, each started once in a test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.checkpoints.families import save_checkpoint
from support.servers.chat.processes import ServerProcess, llama_cpp_server, transformers_server

# For Qwen's kinds, transformers serve looks for the answer behind "<|im_start|>assistant". If the prompt lacks that
# text, the answer holds the whole prompt.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def real_llama_cpp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with llama_cpp_server(tmp_path_factory.mktemp("llama") / "log") as server:
        yield server


@pytest.fixture(scope="session")
def real_transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = save_checkpoint("qwen2_5_vl", tmp_path_factory.mktemp("qwen"))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with transformers_server(folder, tmp_path_factory.mktemp("serve") / "log") as server:
        yield server
