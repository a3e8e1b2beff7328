"""The generations of 2024 give the answers of an independent implementation: Phi and SigLIP of ``transformers``."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import tokenizers
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from transformers import PhiConfig, PhiForCausalLM, SiglipVisionConfig, SiglipVisionModel

from moondream_beam.models.moondream.checkpoints.tensor_names import UNUSED_REGION_TENSORS
from moondream_beam.models.moondream.checkpoints.weights import Checkpoint
from moondream_beam.models.moondream.engine.engine import Engine
from moondream_beam.models.moondream.network.crops import prepare_crops
from moondream_beam.models.tasks import Caption, Detect, Fault, Query, Request, Sampling

CPU = torch.device("cpu")
SIDE, PATCH, GRID = 56, 14, 4
TEXT = {"dim": 64, "ff_dim": 96, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "max_context": 128, "vocab_size": 400}
VISION = {
    "enc_dim": 48,
    "enc_n_layers": 2,
    "enc_ff_dim": 80,
    "enc_n_heads": 3,
    "proj_out_dim": 64,
    "proj_inner_dim": 72,
    "crop_size": SIDE,
}
# By release: the halves of the projection's input, the vision encoder, and the text around image and question.
KINDS = {
    "2024-03-06": SimpleNamespace(halves=1, eps=1e-6, gelu="gelu", before="<image>", after="</image>", blank=" "),
    "2024-03-13": SimpleNamespace(halves=1, eps=1e-6, gelu="gelu", before="", after="", blank=""),
    "2024-05-08": SimpleNamespace(halves=1, eps=1e-5, gelu="gelu_pytorch_tanh", before="", after="", blank=""),
    "2024-07-23": SimpleNamespace(halves=2, eps=1e-5, gelu="gelu_pytorch_tanh", before="", after="", blank=""),
    "2024-08-26": SimpleNamespace(halves=2, eps=1e-5, gelu="gelu_pytorch_tanh", before="", after="", blank=""),
}
SIZES = [(100, 90), (511, 511), (700, 300), (300, 700), (600, 512), (1000, 640), (512, 30)]


def byte_pairs():
    """A tokenizer like CodeGen's: a byte-level BPE with tokens for runs of blanks after the end token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=340, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    words = ["\n\nQuestion: What is in the picture?\n\nAnswer:", "\n\nShort caption:", "<image> </image> <END>"]
    tokenizer.train_from_iterator(words * 4, trainer)
    tokenizer.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", special=True, normalized=False)])
    tokenizer.add_tokens([tokenizers.AddedToken(" " * count, normalized=True) for count in range(5, 1, -1)])
    return tokenizer


class Oracle:
    """Random weights, and the outputs of the code of 2024 for them."""

    def __init__(self, release):
        torch.manual_seed(24)
        self.release, self.kind, self.tokenizer = release, KINDS[release], byte_pairs()
        self.end = self.tokenizer.token_to_id("<|endoftext|>")
        phi = PhiConfig(
            vocab_size=400,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            hidden_act="gelu_new",
            partial_rotary_factor=0.5,
        )
        siglip = SiglipVisionConfig(
            hidden_size=48,
            intermediate_size=80,
            num_hidden_layers=2,
            num_attention_heads=3,
            image_size=SIDE,
            patch_size=PATCH,
            hidden_act=self.kind.gelu,
            layer_norm_eps=self.kind.eps,
            vision_use_head=False,
        )
        self.text, self.vision = PhiForCausalLM(phi).eval(), SiglipVisionModel(siglip).eval()
        self.projection = [torch.nn.Linear(48 * self.kind.halves, 72), torch.nn.Linear(72, 64)]
        with torch.no_grad():
            # With their initial weights, the outputs would hardly depend on the inputs.
            for tensor in [*self.text.parameters(), *self.vision.parameters()]:
                tensor.add_(torch.randn(tensor.shape) * 0.2)
            # So small that the epsilon of the first norm matters.
            for layer in (self.tower.embeddings.patch_embedding, self.tower.embeddings.position_embedding):
                for tensor in layer.parameters():
                    tensor.mul_(0.003)

    @property
    def tower(self):
        # The attribute depends on the version of transformers.
        return getattr(self.vision, "vision_model", self.vision)

    def tensors(self):
        """The tensors by their names in checkpoints of 2024."""
        yield from named(self.text_tensors(), "text_model.")
        yield from named(self.vision_tensors(), "vision_encoder.encoder.model.visual.")
        for number, layer in enumerate(self.projection, 1):
            yield from named(layer.state_dict().items(), f"vision_encoder.projection.mlp.fc{number}.")
        if self.release == "2024-08-26":
            yield from (
                (name, torch.zeros(3)) for name in UNUSED_REGION_TENSORS - {"region_model.position_encoder.weight"}
            )
            yield "region_model.position_encoder.weight", torch.zeros(3, 3)

    def text_tensors(self):
        body = self.text.model
        yield "transformer.embd.wte.weight", body.embed_tokens.weight
        for number, layer in enumerate(body.layers):
            block, attention = f"transformer.h.{number}", layer.self_attn
            parts = [attention.q_proj, attention.k_proj, attention.v_proj]
            yield f"{block}.mixer.Wqkv.weight", torch.cat([part.weight for part in parts])
            yield f"{block}.mixer.Wqkv.bias", torch.cat([part.bias for part in parts])
            yield from named(attention.dense.state_dict().items(), f"{block}.mixer.out_proj.")
            yield from named(layer.mlp.state_dict().items(), f"{block}.mlp.")
            yield from named(layer.input_layernorm.state_dict().items(), f"{block}.ln.")
        yield from named(body.final_layernorm.state_dict().items(), "lm_head.ln.")
        yield from named(self.text.lm_head.state_dict().items(), "lm_head.linear.")

    def vision_tensors(self):
        tower = self.tower
        # The kernel of the convolution has the order of a flattened patch: channel, row, column.
        yield "patch_embed.linear.weight", tower.embeddings.patch_embedding.weight.flatten(1)
        yield "patch_embed.linear.bias", tower.embeddings.patch_embedding.bias
        yield "pos_embed", tower.embeddings.position_embedding.weight[None]
        for number, layer in enumerate(tower.encoder.layers):
            block, attention = f"blocks.{number}", layer.self_attn
            parts = [attention.q_proj, attention.k_proj, attention.v_proj]
            yield f"{block}.attn.qkv.weight", torch.cat([part.weight for part in parts])
            yield f"{block}.attn.qkv.bias", torch.cat([part.bias for part in parts])
            yield from named(attention.out_proj.state_dict().items(), f"{block}.attn.proj.")
            yield from named(layer.layer_norm1.state_dict().items(), f"{block}.norm1.")
            yield from named(layer.layer_norm2.state_dict().items(), f"{block}.norm2.")
            yield from named(layer.mlp.state_dict().items(), f"{block}.mlp.")
        yield from named(tower.post_layernorm.state_dict().items(), "norm.")

    def write(self, folder):
        """Write the checkpoint, with a config.json for the numbers that are smaller than the published ones."""
        save_file(
            {name: tensor.detach().clone().contiguous() for name, tensor in self.tensors()},
            folder / "model.safetensors",
        )
        self.tokenizer.save(str(folder / "tokenizer.json"))
        early = self.release < "2024-03-20"
        ends = self.tokenizer.encode("<END>").ids if early else [self.end]
        special = {
            "bos_id": self.end,
            "eos_id": ends[0],
            "end_ids": ends[1:],
            "before_image": self.tokenizer.encode(self.kind.before).ids,
        }
        config = {"text": TEXT, "vision": VISION, "tokenizer": special}
        (folder / "config.json").write_text(json.dumps({"architectures": ["Moondream"], "config": config}))
        return folder

    @torch.no_grad()
    def embed_image(self, picture):
        """Image embeddings ``[1, T, C]`` of moondream/vision_encoder.py."""
        width, height = picture.size
        sizes = [(SIDE, SIDE)]
        if self.kind.halves == 2 and max(width, height) >= 512:
            sizes = [(SIDE, SIDE), (SIDE, 2 * SIDE), (2 * SIDE, SIDE), (2 * SIDE, 2 * SIDE)]
        rows, columns = min(
            sizes,
            key=lambda size: (abs(size[1] / size[0] - width / height), abs(size[0] - width) + abs(size[1] - height)),
        )
        resized = np.asarray(picture.resize((columns, rows), Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (torch.tensor(resized).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
        whole = self.encode(F.interpolate(pixels, size=(SIDE, SIDE), mode="bilinear"))
        if self.kind.halves == 1:
            return self.project(whole)
        bands = []
        for top in range(0, rows, SIDE):
            lefts = range(0, columns, SIDE)
            tiles = [self.encode(pixels[:, :, top : top + SIDE, left : left + SIDE]) for left in lefts]
            bands.append(torch.cat([tile.transpose(1, 2).unflatten(2, (GRID, GRID)) for tile in tiles], dim=3))
        pooled = F.interpolate(torch.cat(bands, dim=2), size=(GRID, GRID), mode="bilinear")
        return self.project(torch.cat([whole, pooled.flatten(2).transpose(1, 2)], dim=2))

    def encode(self, pixels):
        return self.vision(pixel_values=pixels).last_hidden_state

    def project(self, features):
        first, second = self.projection
        return second(F.gelu(first(features), approximate="none" if self.kind.gelu == "gelu" else "tanh"))

    @torch.no_grad()
    def answer(self, picture, prompt, max_tokens):
        """The greedy answer and its number of tokens, without a cache."""
        embed = self.text.get_input_embeddings()
        opening = torch.tensor([[self.end, *self.tokenizer.encode(self.kind.before).ids]])
        ids, given = [], torch.cat([embed(opening), self.embed_image(picture)], dim=1)
        prompt_ids = self.tokenizer.encode(prompt).ids
        ends = self.tokenizer.encode("<END>").ids if self.release < "2024-03-20" else [self.end]
        while len(ids) < max_tokens:
            inputs = torch.cat([given, embed(torch.tensor([prompt_ids + ids]))], dim=1)
            token = int(self.text(inputs_embeds=inputs).logits[0, -1].argmax())
            if token in ends:
                break
            ids.append(token)
        return self.tokenizer.decode(ids).strip(), len(ids)


def named(tensors, prefix):
    return ((prefix + name, tensor) for name, tensor in tensors)


def noise(width, height, seed=0):
    """Blurred noise, so that resized pictures differ."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture(scope="module", params=KINDS)
def oracle(request):
    return Oracle(request.param)


@pytest.fixture(scope="module")
def engine(oracle, tmp_path_factory):
    folder = oracle.write(tmp_path_factory.mktemp(oracle.release))
    release = oracle.release if oracle.kind.halves == 1 else None
    return Engine(Checkpoint.at(folder, release=release), CPU, torch.float32)


def ask(engine, picture, task, max_tokens=12):
    request = Request("1", picture, task, Sampling(max_tokens=max_tokens, temperature=0))
    (outcome,) = engine.answer([request])
    return outcome


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_image_embeddings_match_the_oracle(oracle, engine, size):
    picture, vision = noise(*size), engine.model.vision
    crops = prepare_crops(picture, engine.config.vision)
    pixels = (torch.from_numpy(crops.pixels_NHWC).float() / 127.5 - 1).permute(0, 3, 1, 2)
    ours, theirs = vision.project(vision.encode(pixels), [crops.tiling]), oracle.embed_image(picture)
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


@pytest.mark.parametrize("number", range(6))
def test_answers_match_the_oracle(oracle, engine, number):
    question = ["What is in the picture?", "How many?", " Wait    what?  ", "\n\nnewlines\n", "ünïcödé 🌔", "?"][number]
    picture = noise(*SIZES[number], seed=number)
    prompt = f"{oracle.kind.after}\n\nQuestion: {question}\n\nAnswer:{oracle.kind.blank}"
    text, count = oracle.answer(picture, prompt, 12)
    outcome = ask(engine, picture, Query(question))
    assert (outcome.result.text, outcome.tokens.output) == (text, count)
    assert outcome.tokens.input == engine.config.prefix_length + len(oracle.tokenizer.encode(prompt).ids)


@pytest.mark.parametrize("length, prompt", [("short", "\n\nShort caption:"), ("normal", "\n\nCaption:")])
def test_captions_match_the_oracle_or_are_faults_before_2024_08_26(oracle, engine, length, prompt):
    picture = noise(700, 300)
    outcome = ask(engine, picture, Caption(length))
    if oracle.release == "2024-08-26":
        assert outcome.result.text == oracle.answer(picture, prompt, 12)[0]
    else:
        assert isinstance(outcome.result, Fault)
        assert f"has no {length} caption; ask a question with --query" in outcome.result.message


@pytest.mark.parametrize(
    "task, message", [(Detect("cat"), "has no detect task"), (Caption("long"), "has no long caption")]
)
def test_tasks_that_no_release_of_2024_supports_are_faults(engine, task, message):
    assert message in ask(engine, noise(60, 60), task).result.message


def test_pictures_of_all_sizes_together_get_the_same_answers_as_alone(engine):
    requests = [
        Request(str(number), noise(*size, seed=number), Query("What?"), Sampling(max_tokens=5, temperature=0))
        for number, size in enumerate(SIZES)
    ]
    together = {outcome.id: outcome.result.text for outcome in engine.answer(requests)}
    assert together == {each.id: ask(engine, each.picture, each.task, 5).result.text for each in requests}
