"""Small random checkpoints of the families of vision models, saved as the hub has them."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
import transformers as hf
from support.checkpoints.tokenizers import BOS, byte_tokenizer, chat_template
from transformers import PreTrainedConfig, PreTrainedTokenizerFast, ProcessorMixin

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
Made = tuple[PreTrainedConfig, ProcessorMixin]


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def qwen2_5_vl() -> Made:
    tokenizer = byte_tokenizer(
        image="<|image_pad|>", video="<|video_pad|>", start="<|vision_start|>", end="<|vision_end|>"
    )
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("image_pad", "video_pad")}
    ends = {name: tokenizer.convert_tokens_to_ids(f"<|vision_{name}|>") for name in ("start", "end")}
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = hf.Qwen2_5_VLConfig(
        text_config={**TEXT, **special_ids(tokenizer), "rope_parameters": rope},
        vision_config={
            "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32,
            "fullatt_block_indexes": [1], "window_size": 112,
        },
        image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ends["start"], vision_end_token_id=ends["end"],
    )  # fmt: skip
    template = chat_template("<|vision_start|><|image_pad|><|vision_end|>")
    images, videos = hf.Qwen2VLImageProcessor(), hf.Qwen2VLVideoProcessor()
    return config, hf.Qwen2_5_VLProcessor(images, tokenizer, videos, chat_template=template)


def idefics3(smol: bool = False) -> Made:
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    tokenizer = byte_tokenizer(
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
        **{tile.strip("<>"): tile for tile in tiles},
    )
    kind = hf.SmolVLMConfig if smol else hf.Idefics3Config
    config = kind(
        text_config={"model_type": "llama", **TEXT, **special_ids(tokenizer)},
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    sizes = {"size": {"longest_edge": 168}, "max_image_size": {"longest_edge": 56}}
    template = chat_template("<image>")
    if smol:
        images, videos = hf.SmolVLMImageProcessor(**sizes), hf.SmolVLMVideoProcessor(**sizes)
        return config, hf.SmolVLMProcessor(images, tokenizer, videos, image_seq_len=4, chat_template=template)
    images = hf.Idefics3ImageProcessor(**sizes)
    return config, hf.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template)


def smolvlm() -> Made:
    return idefics3(smol=True)


def llava() -> Made:
    tokenizer = byte_tokenizer(image_token="<image>")
    config = hf.LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION, "image_size": 28, "patch_size": 14},
        text_config={"model_type": "llama", **TEXT, **special_ids(tokenizer)},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    return config, hf.LlavaProcessor(
        images, tokenizer, 14, "default", chat_template("<image>"), num_additional_image_tokens=1
    )


def gemma3() -> Made:
    tokenizer = byte_tokenizer(
        image_token="<image_soft_token>", boi_token="<start_of_image>", eoi_token="<end_of_image>"
    )
    config = hf.Gemma3Config(
        text_config={**TEXT, **special_ids(tokenizer), "head_dim": 8, "sliding_window": 16},
        vision_config={**VISION, "image_size": 56, "patch_size": 14},
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    images = hf.Gemma3ImageProcessor(size={"height": 56, "width": 56})
    template = chat_template("<start_of_image>", BOS)
    return config, hf.Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4)


def paligemma() -> Made:
    tokenizer = byte_tokenizer(image_token="<image>")
    images = hf.SiglipImageProcessor(size={"height": 56, "width": 56})
    images.image_seq_length = 16
    processor = hf.PaliGemmaProcessor(images, tokenizer)
    config = hf.PaliGemmaConfig(
        text_config={"model_type": "gemma", **TEXT, **special_ids(tokenizer), "head_dim": 8, "num_image_tokens": 16},
        vision_config={**VISION, "image_size": 56, "patch_size": 14, "projection_dim": 32, "vision_use_head": False},
        image_token_index=tokenizer.image_token_id,
        projection_dim=32,
        hidden_size=32,
    )
    return config, processor


def internvl() -> Made:
    tokenizer = byte_tokenizer(
        image_token="<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>", video_token="<video>",
        context_image_token="<IMG_CONTEXT>",
    )  # fmt: skip
    config = hf.InternVLConfig(
        text_config={"model_type": "qwen2", **TEXT, **special_ids(tokenizer)},
        vision_config={**VISION, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
    )
    images = hf.GotOcr2ImageProcessor(
        size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
    )
    videos = hf.InternVLVideoProcessor(size={"height": 56, "width": 56})
    return config, hf.InternVLProcessor(images, tokenizer, videos, 4, chat_template("<IMG_CONTEXT>"))


def florence2() -> Made:
    locations = {f"loc_{number}": f"<loc_{number}>" for number in range(1000)}
    tokenizer = byte_tokenizer(image_token="<image>", poly="<poly>", end_poly="</poly>", **locations)
    config = hf.Florence2Config(
        text_config={
            "model_type": "bart", "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
            "max_position_embeddings": 128, "decoder_start_token_id": tokenizer.eos_token_id, **special_ids(tokenizer),
        },
        vision_config={
            "depths": (1, 1, 1, 1), "embed_dim": (16, 16, 32, 32), "num_heads": (2, 2, 4, 4),
            "num_groups": (2, 2, 4, 4), "window_size": 4, "projection_dim": 32,
        },
        image_token_id=tokenizer.image_token_id,
    )  # fmt: skip
    images = hf.CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    # 4 places, and one for the mean of all.
    images.image_seq_length = 5
    parsed = {"description_with_bboxes_or_polygons": {}}
    return config, hf.Florence2Processor(images, tokenizer, post_processor_config=parsed)


FAMILIES: dict[str, Callable[[], Made]] = {
    each.__name__: each for each in (qwen2_5_vl, smolvlm, idefics3, llava, gemma3, paligemma, internvl, florence2)
}
# PaliGemma has no chat template.
TEMPLATES = {"paligemma": "<image>{prompt}"}


def save_checkpoint(family: str, folder: Path) -> Path:
    """Save a random checkpoint of a family and its processor in a folder; return the folder."""
    config, processor = FAMILIES[family]()
    # With random embeddings that are tied to the output, a model repeats the last token of its prompt.
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = hf.AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    # Weights of the default size let every picture and prompt get the same answer.
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.05 if "embed" in name else 0.3)
    if config.is_encoder_decoder:
        # As Florence-2 has it: the second token of each answer is forced.
        model.generation_config.forced_bos_token_id = config.text_config.bos_token_id
        model.generation_config.forced_eos_token_id = config.text_config.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["model_type"] == config.model_type
    return folder
