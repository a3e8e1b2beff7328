"""The vision encoder gives the features of the reference, and pictures do not affect each other."""

import torch

from moondream_beam.models.moondream.network.crops import Tiling, normalize
from moondream_beam.models.moondream.network.vision import Vision


def relative_error(ours, theirs):
    theirs = torch.as_tensor(theirs)
    return float((ours - theirs).norm() / theirs.norm())


def embed(engine, crops):
    """Image embeddings of one picture, ``[T, C]``."""
    vision = engine.model.vision
    features = vision.encode(normalize(torch.from_numpy(crops.pixels_NHWC), torch.float32))
    return vision.project(features, [crops.tiling])[0]


def test_image_features_match_the_reference(golden, picture):
    assert relative_error(embed(golden.engine, golden.crops[picture]), golden.arrays[f"img{picture}.features"]) < 1e-4


def test_the_image_prefix_matches_the_reference(golden, picture):
    text = golden.engine.model.text
    bos = text.embed(torch.tensor([golden.engine.config.tokenizer.bos_id]))
    embeds = torch.cat([bos, embed(golden.engine, golden.crops[picture])])[None]
    hidden = text(embeds, torch.arange(embeds.shape[1])[None])[0, -1]
    assert relative_error(hidden, golden.arrays[f"img{picture}.prefix_hidden_last"]) < 1e-4


def test_encoding_the_crop_of_a_one_tile_picture_once_equals_twice(golden):
    vision, (pixels, _) = golden.engine.model.vision, golden.crops[0]
    once = embed(golden.engine, golden.crops[0])
    whole, tile = vision.encode(normalize(torch.from_numpy(pixels).repeat(2, 1, 1, 1), torch.float32))
    assert torch.allclose(once, vision.proj_mlp(torch.cat([whole, tile], dim=-1)), atol=1e-5)


def test_pictures_encoded_together_equal_pictures_encoded_alone(golden):
    together, alone = golden.engine.encode(golden.crops), [golden.engine.encode([crops]) for crops in golden.crops]
    for index, own in enumerate(alone):
        assert torch.allclose(together.keys[:, index], own.keys[:, 0], atol=1e-4)
        assert torch.allclose(together.values[:, index], own.values[:, 0], atol=1e-4)


def test_more_crops_than_one_pass_takes_are_encoded_in_several(golden, monkeypatch):
    whole = golden.engine.encode(golden.crops[:2])
    passes, encode = [], Vision.encode
    monkeypatch.setattr(golden.engine, "max_crops_per_pass", 3)
    monkeypatch.setattr(Vision, "encode", lambda self, pixels: passes.append(len(pixels)) or encode(self, pixels))
    in_parts = golden.engine.encode(golden.crops[:2])
    assert passes == [3, 3, 3, 1]
    assert torch.allclose(whole.keys, in_parts.keys, atol=1e-4)


def test_patches_are_flattened_as_channel_row_column(toy):
    """The patch in row 2, column 1 of the grid is compared."""
    vision = toy.model.vision
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(3))
    seen = []
    handle = vision.patch_emb.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    vision.encode(pixels)
    handle.remove()
    assert torch.equal(seen[0][0, 4 * 2 + 1], pixels[0, :, 28:42, 14:28].flatten())


def test_project_merges_the_features_of_each_picture_alone(toy):
    vision = toy.model.vision
    tilings = [Tiling(1, 1), Tiling(1, 2), Tiling(1, 1)]
    features = torch.randn(1 + 3 + 1, 16, 24, generator=torch.Generator().manual_seed(3))
    together = vision.project(features, tilings)
    parts = ([0], [1, 2, 3], [4])
    alone = [vision.project(features[part], [tiling]) for part, tiling in zip(parts, tilings, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-6)
