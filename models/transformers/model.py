"""A loaded model: it answers batches of requests, and a batch that does not fit into memory in halves."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from ..hosted.http.images import shrink_area
from ..moondream.devices import is_out_of_memory, synchronize
from ..tasks import Answer, Caption, Detect, Fault, Outcome, Query, Request, Sampling, Task, Timings, Tokens
from . import florence
from .decoding import Row, RowLimits, RowSampler, cut_answer
from .loading import end_ids
from .prompts import format_prompt

log = logging.getLogger(__name__)


class Prompts(NamedTuple):
    """How requests become prompts. ``template``: of the user; None for the chat template of the checkpoint.

    ``is_florence``: whether the model has task tokens in place of a template.
    """

    captions: Mapping[str, str]
    template: str | None
    max_pixels: int
    is_florence: bool

    def text_of(self, processor: Any, request: Request) -> str:
        """Return the text of a request, with the marks of the picture.

        Raises:
            ValueError: if the task is neither a caption nor a query without reasoning, or there is no template.
        """
        task = request.task
        if self.is_florence:
            return florence.prompt_of(task, self.captions)
        if not isinstance(task, Caption | Query):
            raise ValueError(f"the transformers backend does not support the task {task.name}: use --backend local")
        if isinstance(task, Query) and task.reasoning:
            raise ValueError("the transformers backend is not asked for a reasoning: ask without it")
        prompt = self.captions[task.length] if isinstance(task, Caption) else task.question
        return format_prompt(processor, prompt, self.template)


class Prepared(NamedTuple):
    """A request with its text and its picture in the size of the model. ``pulled``: when the request arrived."""

    request: Request
    text: str
    picture: Any
    pulled: float


@dataclass
class LoadedModel:
    """A model and its processor on a device. ``batch_size`` is halved when the memory is too small."""

    model: Any
    processor: Any
    prompts: Prompts
    device: torch.device
    batch_size: int
    ends: frozenset[int] = field(init=False)
    backend: str = field(init=False)
    context: int | None = field(init=False)
    is_encoder_decoder: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_encoder_decoder = bool(self.model.config.is_encoder_decoder)
        self.ends = end_ids(self.model.generation_config.eos_token_id, self.processor.tokenizer)
        self.backend = f"transformers/{self.device.type}/{str(self.model.dtype).removeprefix('torch.')}"
        text_config = self.model.config.get_text_config(decoder=True)
        self.context = getattr(text_config, "max_position_embeddings", None)

    def answer(self, requests: Sequence[tuple[Request, float]]) -> Iterator[Outcome]:
        """Yield one outcome for each request. Requests of like length share a batch.

        Args:
            requests: each with the time of ``time.monotonic`` at which it arrived.
        """
        prepared: list[Prepared] = []
        for request, pulled in requests:
            try:
                prepared.append(self._prepare(request, pulled))
            except ValueError as error:
                yield Outcome(request.id, Fault.of(error), self.backend)
        # A batch takes as long as its longest row, in the prompt and in the answer.
        prepared.sort(key=self._length)
        while prepared:
            batch, prepared = prepared[: self.batch_size], prepared[self.batch_size :]
            yield from self._answer_batch(batch)

    def _prepare(self, request: Request, pulled: float) -> Prepared:
        picture = request.picture
        if picture.mode != "RGB":
            raise ValueError(f"the picture has mode {picture.mode}: convert it to RGB first")
        if 0 in picture.size:
            raise ValueError("the picture has no pixels: remove it from the input")
        text = self.prompts.text_of(self.processor, request)
        return Prepared(request, text, shrink_area(picture, self.prompts.max_pixels), pulled)

    @staticmethod
    def _length(each: Prepared) -> tuple[int, int, int]:
        budget = _budget(each.request)
        return budget, each.picture.width * each.picture.height, len(each.text)

    def _answer_batch(self, batch: Sequence[Prepared]) -> Iterator[Outcome]:
        """Yield the outcomes of a batch. One that fails is divided, until the requests that fail are found."""
        outcomes, error = self._try_batch(batch)
        yield from outcomes
        if error is None:
            return
        if len(batch) == 1:
            yield Outcome(batch[0].request.id, self._fault_of(error), self.backend)
            return
        half = (len(batch) + 1) // 2
        if is_out_of_memory(error) and half < self.batch_size:
            log.warning("out of memory with %d requests: batches have %d requests from now on", len(batch), half)
            self.batch_size = half
        del error
        self._free_memory()
        yield from self._answer_batch(batch[:half])
        yield from self._answer_batch(batch[half:])

    def _try_batch(self, batch: Sequence[Prepared]) -> tuple[list[Outcome], Exception | None]:
        """Return the outcomes of a batch and no error, or no outcome and the error.

        Raises:
            RuntimeError: if the device has failed and answers nothing more.
        """
        try:
            return self._run(batch), None
        # Processors and models raise errors of many types for pictures and prompts that they cannot take.
        except Exception as error:
            # After such an error, a GPU answers nothing more in this process.
            if type(error).__name__ == "AcceleratorError":
                raise
            # Its frames hold the tensors of the batch.
            return [], error.with_traceback(None)

    @staticmethod
    def _fault_of(error: Exception) -> Fault:
        if is_out_of_memory(error):
            message = "the memory is too small for this picture: lower --max-pixels, and run again with --retry-errors"
            return Fault("OutOfMemory", message, retryable=True)
        return Fault.of(error)

    def _free_memory(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.inference_mode()
    def _run(self, batch: Sequence[Prepared]) -> list[Outcome]:
        started = time.monotonic()
        inputs, lengths = self._inputs(batch)
        encoded = time.monotonic()
        start, given = self._starts(inputs)
        rows = [
            Row(each.request.id, _sampling(each.request), self._limit(each.request, length, start))
            for each, length in zip(batch, lengths, strict=True)
        ]
        fitting = [place for place, row in enumerate(rows) if row.max_tokens > 0]
        if len(fitting) < len(rows):
            return self._without_long(batch, lengths, fitting)
        sequences = self.model.generate(
            **inputs,
            max_new_tokens=max(row.max_tokens for row in rows) + start - given,
            logits_processor=[RowSampler(rows, start, self.device)],
            stopping_criteria=[RowLimits(rows, start, self.device)],
        )
        synchronize(self.device)
        ended = time.monotonic()
        answers = sequences[:, start:].tolist()
        encode_ms, generate_ms = (1000 * seconds / len(batch) for seconds in (encoded - started, ended - encoded))
        return [
            self._outcome(
                each.request.task,
                row,
                ids,
                Tokens(input=length),
                Timings(1000 * (started - each.pulled), encode_ms, generate_ms),
            )
            for each, row, length, ids in zip(batch, rows, lengths, answers, strict=True)
        ]

    def _inputs(self, batch: Sequence[Prepared]) -> tuple[dict[str, Any], list[int]]:
        """Return the inputs of the model, and the number of tokens of each prompt with its picture."""
        texts = [each.text for each in batch]
        bos = self.processor.tokenizer.bos_token
        # Chat templates write the first token themselves, and a second one changes the answers.
        has_bos = bool(bos) and all(text.startswith(bos) for text in texts)
        inputs = self.processor(
            text=texts,
            images=[[each.picture] for each in batch],
            return_tensors="pt",
            padding=True,
            # Some processors pad on the right, and a decoder would then go on from padding. An encoder numbers the
            # places from the left end, so its prompts must begin there.
            padding_side="right" if self.is_encoder_decoder else "left",
            **({"add_special_tokens": False} if has_bos else {}),
        )
        lengths = inputs["attention_mask"].sum(1).tolist()
        # PaliGemma adds labels for training.
        inputs.pop("labels", None)
        return dict(inputs.to(self.device, self.model.dtype)), lengths

    def _starts(self, inputs: Mapping[str, Any]) -> tuple[int, int]:
        """Return how many tokens precede each answer in the sequences of ``generate``, and how many are its input.

        An encoder-decoder begins with a start token. Florence-2 and BART force a second one, which is generated.
        """
        if not self.is_encoder_decoder:
            length = int(inputs["input_ids"].shape[1])
            return length, length
        return 1 + (self.model.generation_config.forced_bos_token_id is not None), 1

    def _limit(self, request: Request, length: int, start: int) -> int:
        """Return the limit on new tokens: that of the request, or what the context of the model leaves.

        ``length``: of the prompt. An encoder-decoder has a context for the prompt and one for the answer, of one size.
        """
        budget = _budget(request)
        if self.context is None:
            return budget
        if self.is_encoder_decoder:
            return min(budget, self.context - start) if length <= self.context else 0
        return min(budget, self.context - length)

    def _without_long(self, batch: Sequence[Prepared], lengths: Sequence[int], fitting: list[int]) -> list[Outcome]:
        """Return faults for the prompts that fill the context, and the outcomes of the others."""
        outcomes = [
            Outcome(
                each.request.id,
                Fault(
                    "PromptTooLong",
                    f"picture and prompt have {length} tokens and the model takes {self.context}: lower --max-pixels "
                    "or shorten the prompt, and run again with --retry-errors",
                    retryable=True,
                ),
                self.backend,
                tokens=Tokens(input=length),
            )
            for place, (each, length) in enumerate(zip(batch, lengths, strict=True))
            if place not in fitting
        ]
        return outcomes + (self._run([batch[place] for place in fitting]) if fitting else [])

    def _outcome(self, task: Task, row: Row, ids: Sequence[int], tokens: Tokens, timings: Timings) -> Outcome:
        kept, reason = cut_answer(ids, self.ends, row.max_tokens)
        result: Answer | Fault
        if isinstance(task, Detect):
            boxes = florence.boxes_in(florence.decode(kept, self.processor.tokenizer))
            reason = "length" if len(boxes) > task.max_objects else reason
            result = Answer(reason, objects=tuple(boxes[: task.max_objects]))
        elif text := self._text_of(kept):
            result = Answer(reason, text=text)
        else:
            cure = "raise --max-tokens" if reason == "length" else "change the prompt or --temperature"
            result = Fault("EmptyAnswer", f"the model gave an empty answer, finish reason {reason}: {cure}")
        return Outcome(row.seed, result, self.backend, timings, replace(tokens, output=len(kept)))

    def _text_of(self, ids: Sequence[int]) -> str:
        tokenizer = self.processor.tokenizer
        if self.prompts.is_florence:
            return florence.decode(ids, tokenizer)
        return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _budget(request: Request) -> int:
    """Return the limit on the tokens of an answer. That of boxes follows from their number."""
    task = request.task
    return task.max_objects * florence.TOKENS_PER_BOX if isinstance(task, Detect) else request.sampling.budget(task)


def _sampling(request: Request) -> Sampling:
    """Return how the tokens of an answer are sampled. Those of boxes are always the most likely."""
    return Sampling(temperature=0.0) if isinstance(request.task, Detect) else request.sampling
