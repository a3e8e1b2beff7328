"""The text of a prompt, with the marks of the picture: by the checkpoint's chat template, or by one of the user's."""

from __future__ import annotations

from typing import Any

PLACEHOLDER = "{prompt}"


def check_template(template: str | None) -> None:
    """Raise ValueError if a prompt template is given and has no ``{prompt}``, the place of the prompt."""
    if template is not None and PLACEHOLDER not in template:
        raise ValueError(f"prompt template {template!r}: put {PLACEHOLDER} where the prompt belongs")


def format_prompt(processor: Any, prompt: str, template: str | None) -> str:
    """Return the text for one picture and one prompt.

    Args:
        template: a text with ``{prompt}``; None for the chat template of the checkpoint.

    Raises:
        ValueError: if there is neither a template nor a chat template.
    """
    if template is not None:
        return template.replace(PLACEHOLDER, prompt)
    chat_template = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template
    if not chat_template:
        raise ValueError(
            "the model has no chat template: give --prompt-template, such as '<image>{prompt}', as its model card says"
        )
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        chat_template=chat_template,
        tokenize=False,
        add_generation_prompt=True,
    )
    return str(text)
