"""Train the tiny model from random weights: ``python -m tiny.train --output DIR``.

The vision encoder is trained alone first (marks.py), then the whole network on all tasks. Every picture is new. The
learning rate falls to zero over ``--steps``. Run the same command again to resume from the last checkpoint.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, distributed, nn
from torch.multiprocessing.spawn import spawn

from moondream_beam.models.moondream.checkpoints.files import CONFIG_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from moondream_beam.models.moondream.checkpoints.tensor_names import WRAPPER_PREFIX
from moondream_beam.models.moondream.checkpoints.weights import MoondreamModel
from moondream_beam.models.moondream.network.config import MoondreamConfig, read_json
from moondream_beam.models.moondream.network.tokenizer import Tokenizer
from moondream_beam.models.tiny.scenes import TRAINING_SEEDS, VALIDATION_SEEDS, draw

from .lessons import Batch, Teacher
from .losses import compute_losses, encode_pictures, exact_match, run_decoder
from .marks import Marker, Outliner
from .vocabulary import build_config, build_tokenizer

_PEAK_RATE = 1.5e-3
_WARM_UP = 150
_BETAS = (0.9, 0.98)
_WEIGHT_DECAY = 0.03
_CLIP = 1.0
_MARKS_WEIGHT = 0.3
_COORDINATES_WEIGHT = 0.4
_SIZES_WEIGHT = 0.3
_STATE_FILE, _RENDEZVOUS_FILE = "training.pt", "meeting"


class Pupil(nn.Module):
    """The network, and the layers for marks and outlines that are used in training only."""

    def __init__(self, config: MoondreamConfig) -> None:
        super().__init__()
        self.model = MoondreamModel(config)
        self.marker = Marker(config.vision.proj_out_dim)
        self.outliner = Outliner(config.vision.enc_dim)
        nn.init.normal_(self.model.vision.pos_emb, std=0.1)
        nn.init.normal_(self.model.text.wte, std=0.1)
        nn.init.normal_(self.model.region.coord_features, std=2.0)
        nn.init.normal_(self.model.region.size_features, std=1.0)

    def forward(self, batch: Batch, everything: bool) -> tuple[Tensor, list[float]]:
        """Return the loss, and its parts for the log. Without ``everything`` only marks and outlines are trained."""
        features_NTC, image_BTC = encode_pictures(self.model, batch)
        marks, outlines = self.marker(image_BTC, batch.marks), self.outliner(features_NTC, batch.outlines_NTC)
        if not everything:
            return marks + outlines, [marks.item(), outlines.item()]
        losses = compute_losses(self.model, run_decoder(self.model, image_BTC, batch), batch)
        task_loss = losses.tokens + _COORDINATES_WEIGHT * losses.coordinates + _SIZES_WEIGHT * losses.sizes
        return task_loss + _MARKS_WEIGHT * (marks + outlines), [part.item() for part in (marks, outlines, *losses)]


class Training:
    """The training in one worker process. All workers hold the same weights and average their gradients."""

    def __init__(self, rank: int, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.rank, self.options, self.folder = rank, options, Path(options.output)
        config = MoondreamConfig().with_overrides(read_json(self.folder / CONFIG_FILE))
        self.teacher = Teacher(config, Tokenizer(self.folder / TOKENIZER_FILE), options.things)
        self.pupil = Pupil(config)
        self.weights = [weight for weight in self.pupil.parameters() if weight.requires_grad]
        matrices = [weight for weight in self.weights if weight.dim() == 2]
        vectors = [weight for weight in self.weights if weight.dim() != 2]
        groups = [{"params": matrices, "weight_decay": _WEIGHT_DECAY}, {"params": vectors, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=_BETAS, fused=True)
        self.step = 0

    def run(self) -> None:
        """Run the remaining steps. Resume from the last checkpoint in the folder if there is one."""
        if (self.folder / _STATE_FILE).exists():
            self._resume()
        start = time.monotonic()
        stop = self.options.stop or self.options.steps
        while self.step < stop:
            parts = self._learn()
            self.step += 1
            if self.step % self.options.log_every == 0 and self.rank == 0:
                self._log(parts, time.monotonic() - start)
            if (self.step % self.options.save_every == 0 or self.step == stop) and self.rank == 0:
                self._save()

    def _learn(self) -> list[float]:
        share = self.options.batch // self.options.workers
        first = self.step * self.options.batch + self.rank * share
        batch = self.teacher.batch([draw(seed) for seed in TRAINING_SEEDS[first : first + share]])
        loss, parts = self.pupil(batch, self.step >= self.options.looking)
        loss.backward()
        self._average()
        nn.utils.clip_grad_norm_(self.weights, _CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return parts

    def _average(self) -> None:
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.options.workers
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def _rate(self) -> float:
        """Return the learning rate: a cosine to zero, with a warm-up at the start and when all tasks begin."""
        looking = self.options.looking
        since = self.step if self.step < looking else self.step - looking
        falling = 0.5 * (1 + math.cos(math.pi * self.step / self.options.steps))
        return _PEAK_RATE * min(1.0, (since + 1) / _WARM_UP) * falling

    @torch.no_grad()
    def _log(self, parts: list[float], seconds: float) -> None:
        scenes = [draw(seed) for seed in VALIDATION_SEEDS[: self.options.validation]]
        batch = self.teacher.batch(scenes)
        hidden_BTC = run_decoder(self.pupil.model, encode_pictures(self.pupil.model, batch)[1], batch)
        right = exact_match(self.pupil.model, hidden_BTC, batch)
        losses = " ".join(f"{part:.4f}" for part in parts)
        print(f"step {self.step} seconds {seconds:.0f} loss {losses} held-out right {right:.3f}", flush=True)

    def _save(self) -> None:
        state = {"step": self.step, "pupil": self.pupil.state_dict(), "optimizer": self.optimizer.state_dict()}
        unfinished = self.folder / f"{_STATE_FILE}.part"
        torch.save(state, unfinished)
        unfinished.replace(self.folder / _STATE_FILE)
        tensors = {WRAPPER_PREFIX + name: tensor.half() for name, tensor in self.pupil.model.state_dict().items()}
        save_file(tensors, self.folder / WEIGHTS_FILE, metadata={"format": "pt"})

    def _resume(self) -> None:
        state: dict[str, Any] = torch.load(self.folder / _STATE_FILE, weights_only=True)
        self.step = state["step"]
        self.pupil.load_state_dict(state["pupil"])
        self.optimizer.load_state_dict(state["optimizer"])


def main() -> None:
    """Write the tokenizer and the configuration, then train."""
    parser = argparse.ArgumentParser(description="Train the tiny model from random weights.")
    parser.add_argument(
        "--output", required=True, help="folder of the checkpoint; training resumes from a checkpoint in it"
    )
    parser.add_argument("--steps", type=int, default=3_300)
    parser.add_argument("--stop", type=int, help="interrupt the training after this step")
    parser.add_argument("--looking", type=int, default=900, help="first steps, which train the vision encoder alone")
    parser.add_argument("--batch", type=int, default=64, help="pictures a step, of all workers together")
    parser.add_argument("--things", type=int, default=1, help="names to detect or point at for each picture")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--log-every", type=int, default=50)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--validation", type=int, default=32, help="held-out pictures")
    options = parser.parse_args()
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / TOKENIZER_FILE))
    (folder / CONFIG_FILE).write_text(json.dumps(build_config(tokenizer), indent=1) + "\n", encoding="utf-8")
    # With the file of an interrupted run, the workers would wait for processes that are gone.
    (folder / _RENDEZVOUS_FILE).unlink(missing_ok=True)
    spawn(_work, (options,), options.workers)


def _work(rank: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    rendezvous = (Path(options.output) / _RENDEZVOUS_FILE).absolute()
    distributed.init_process_group("gloo", f"file://{rendezvous}", rank=rank, world_size=options.workers)
    Training(rank, options).run()
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
