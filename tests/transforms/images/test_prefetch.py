"""Images are fetched and decoded ahead of the consumer, within limits on their number and their pixels."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moondream_beam.transforms.core.records import ImageRef
from moondream_beam.transforms.images import prefetch as module
from moondream_beam.transforms.images.fetch import Fetcher
from moondream_beam.transforms.images.prefetch import PICTURES_AHEAD, Loaded, LoadFailure, prefetch

fetch = Fetcher()

PATIENCE = 20.0


@pytest.fixture
def refs(tmp_path: Path) -> list[ImageRef]:
    """Forty images, 1 to 40 pixels wide."""
    for width in range(1, 41):
        Image.new("RGB", (width, 2)).save(tmp_path / f"{width:02}.png")
    return [ImageRef(str(path), path.name) for path in sorted(tmp_path.iterdir())]


def until(condition: Callable[[], object]) -> bool:
    """Return whether a condition becomes true within ``PATIENCE`` seconds."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return bool(condition())


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("load")]


def test_every_image_is_yielded_once_with_its_size_and_digest(refs: list[ImageRef]) -> None:
    loaded = list(prefetch(refs, fetch))
    assert sorted(one.ref for one in loaded) == refs
    assert all(one.picture.width == int(one.ref.filename[:2]) for one in loaded)
    assert len({one.sha256 for one in loaded}) == len(refs)
    assert all(one.fetch_ms > 0 and one.decode_ms > 0 for one in loaded)


def test_no_references_yield_nothing() -> None:
    assert list(prefetch([], fetch)) == []


def test_an_image_that_fails_is_yielded_as_a_failure_with_its_stage(refs: list[ImageRef], tmp_path: Path) -> None:
    Path(refs[3].uri).write_text("<html>")
    Path(refs[5].uri).write_bytes(b"")
    Path(refs[7].uri).unlink()
    wrong = {one.ref: one for one in prefetch(refs, fetch) if isinstance(one, LoadFailure)}
    assert {ref: one.stage for ref, one in wrong.items()} == {refs[3]: "decode", refs[5]: "fetch", refs[7]: "fetch"}
    assert wrong[refs[3]].fault.error == "UndecodableError"
    assert wrong[refs[7]].fault.error == "FileNotFoundError"


def test_a_slow_image_does_not_delay_the_others(refs: list[ImageRef]) -> None:
    gate = threading.Event()

    def slow_for_the_first(uri: str) -> bytes:
        assert uri != refs[0].uri or gate.wait(PATIENCE)
        return fetch(uri)

    loaded = prefetch(refs, slow_for_the_first)
    others = [next(loaded).ref for _ in refs[1:]]
    assert refs[0] not in others
    gate.set()
    assert [one.ref for one in loaded] == refs[:1]


def test_the_input_is_read_at_most_pictures_ahead(refs: list[ImageRef]) -> None:
    taken: list[ImageRef] = []

    def noting() -> Iterator[ImageRef]:
        for ref in refs:
            taken.append(ref)
            yield ref

    loaded = prefetch(noting(), fetch)
    assert taken == []
    for given in range(1, len(refs) + 1):
        next(loaded)
        assert given <= len(taken) <= given + PICTURES_AHEAD - 1


def test_each_image_taken_starts_one_more(refs: list[ImageRef]) -> None:
    fetched: list[str] = []

    def noting(uri: str) -> bytes:
        fetched.append(uri)
        return fetch(uri)

    loaded = prefetch(refs, noting)
    next(loaded)
    assert until(lambda: len(fetched) == PICTURES_AHEAD)
    next(loaded)
    # All 16 are ready by now: taking one starts the 17th.
    assert until(lambda: len(fetched) == PICTURES_AHEAD + 1)
    time.sleep(0.05)
    assert len(fetched) == PICTURES_AHEAD + 1
    loaded.close()


def test_loading_stops_when_the_consumer_stops(refs: list[ImageRef]) -> None:
    fetched: list[str] = []

    def slow(uri: str) -> bytes:
        fetched.append(uri)
        time.sleep(0.02)
        return fetch(uri)

    loaded = prefetch(refs, slow)
    next(loaded)
    loaded.close()
    count = len(fetched)
    assert count <= PICTURES_AHEAD
    assert not loaders()
    time.sleep(0.1)
    assert len(fetched) == count


def test_an_error_of_the_input_is_raised_and_leaves_no_thread(refs: list[ImageRef]) -> None:
    def failing() -> Iterator[ImageRef]:
        yield refs[0]
        raise LookupError("no more paths")

    with pytest.raises(LookupError, match="no more paths"):
        list(prefetch(failing(), fetch))
    assert until(lambda: not loaders())


@pytest.fixture
def large_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ImageRef]:
    """Images of 1,000 pixels with a budget of 2,500, and one image of 10,000."""
    monkeypatch.setattr(module, "PIXELS_AHEAD", 2500)
    refs = []
    for index in range(12):
        path = tmp_path / f"large{index:02}.png"
        Image.new("RGB", (100, 100) if index == 6 else (50, 20)).save(path)
        refs.append(ImageRef(str(path), path.name))
    return refs


def test_the_pixels_ahead_stay_within_the_budget(large_ones: list[ImageRef], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def noting(image: Image.Image, *how: str) -> Image.Image:
        made.append(image.width * image.height)
        return real(image, *how)

    real = module.decode_pixels
    monkeypatch.setattr(module, "decode_pixels", noting)
    loaded = prefetch(large_ones, fetch)
    given = 0
    for one in loaded:
        given += one.pixels
        time.sleep(0.02)
        ahead = sum(made) - given
        # The pixels ahead fit the budget, or belong to the one image that is larger than the budget.
        assert ahead <= 2500 or ahead == 10_000
    assert sum(made) == given == 11 * 1000 + 10_000


def test_broken_images_give_their_pixels_back(large_ones: list[ImageRef]) -> None:
    for ref in large_ones[::2]:
        Path(ref.uri).write_bytes(Path(ref.uri).read_bytes()[:60])
    loaded = list(prefetch(large_ones, fetch))
    assert len(loaded) == 12
    assert sum(isinstance(one, Loaded) for one in loaded) == 6


def test_an_image_that_does_not_fit_into_memory_fails_alone_and_is_retryable(
    large_ones: list[ImageRef], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, turns = module.decode_pixels, iter(range(len(large_ones)))

    def short(image: Image.Image, *how: str) -> Image.Image:
        if next(turns) == 1:
            raise MemoryError
        return real(image, *how)

    monkeypatch.setattr(module, "decode_pixels", short)
    loaded = list(prefetch(large_ones, Fetcher()))
    (failed,) = (one for one in loaded if isinstance(one, LoadFailure))
    assert (failed.stage, failed.fault.error, failed.fault.retryable) == ("decode", "MemoryError", True)
    assert len(loaded) == len(large_ones)


def test_threads_that_wait_for_the_budget_end_when_the_consumer_stops(large_ones: list[ImageRef]) -> None:
    loaded = prefetch(large_ones, fetch)
    next(loaded)
    time.sleep(0.05)
    closing = threading.Thread(target=loaded.close)
    closing.start()
    closing.join(PATIENCE)
    assert not closing.is_alive()
    assert not loaders()


def test_waiting_for_the_budget_is_not_part_of_decode_ms(large_ones: list[ImageRef]) -> None:
    loaded = prefetch(large_ones[:6], fetch)
    times = [next(loaded).decode_ms]
    time.sleep(3)
    times += [one.decode_ms for one in loaded]
    assert max(times) < 2900


def test_large_photographs_pass_the_real_limit_together(tmp_path: Path) -> None:
    pixels = np.zeros((3000, 4000), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.jpg")
    refs = [ImageRef(str(tmp_path / "large.jpg"), f"{copy}") for copy in range(3)]
    assert [one.picture.size for one in prefetch(refs, fetch)] == [(4000, 3000)] * 3


def test_a_file_that_is_not_there_is_named_with_the_cure(tmp_path):
    gone = tmp_path / "gone.jpg"
    (failure,) = prefetch([ImageRef(str(gone), "gone.jpg")], Fetcher())
    assert (failure.stage, failure.fault.error) == ("fetch", "FileNotFoundError")
    assert str(gone) in failure.fault.message and "correct the path" in failure.fault.message
