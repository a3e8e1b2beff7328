"""Coordinates and sizes match the reference."""

import pytest
import torch

from moondream_beam.models.moondream.network.region import bin_to_coordinate, bin_to_size


@pytest.mark.parametrize(
    "method, given, wanted",
    [
        ("encode_coordinate", "region.coord_values", "region.coord_embeds"),
        ("encode_size", "region.size_values", "region.size_embeds"),
        ("decode_coordinate", "img0.prefix_hidden_last", "region.coord_logits"),
        ("decode_size", "img0.prefix_hidden_last", "region.size_logits"),
    ],
)
def test_encoders_and_decoders_match_the_reference(golden, method, given, wanted):
    found = getattr(golden.engine.model.region, method)(torch.from_numpy(golden.arrays[given]))
    expected = torch.from_numpy(golden.arrays[wanted])
    assert found.shape == expected.shape
    assert (found - expected).norm() / expected.norm() < 1e-4


def test_size_bins_have_the_sizes_of_the_reference(golden):
    units = golden.expected["region_units"]
    values = bin_to_size(torch.tensor(units["size_bins"]), 1024)
    assert values.tolist() == pytest.approx(units["size_values"], rel=1e-5)


def test_a_coordinate_is_its_bin_divided_by_the_number_of_bins():
    assert bin_to_coordinate(torch.tensor([0, 512, 1023]), 1024).tolist() == [0, 0.5, 1023 / 1024]
