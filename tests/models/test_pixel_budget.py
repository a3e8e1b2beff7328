"""A pixel budget blocks threads until their pixels fit, and admits a picture larger than the limit alone."""

import threading

import pytest

from moondream_beam.models.pixel_budget import BudgetClosed, PixelBudget

TIMEOUT_S = 20.0


@pytest.fixture
def acquire():
    """Call ``acquire`` in a thread; the result says whether the call has returned (set) or blocks."""

    def acquire(budget, pixels):
        returned = threading.Event()
        threading.Thread(target=lambda: (budget.acquire(pixels), returned.set()), daemon=True).start()
        return returned

    return acquire


def test_pixels_up_to_the_limit_are_admitted_at_once():
    budget = PixelBudget(10)
    budget.acquire(4)
    budget.acquire(6)
    assert budget.used == 10 and not budget.fits(1)


def test_acquire_blocks_until_enough_pixels_are_released(acquire):
    budget = PixelBudget(10)
    budget.acquire(4)
    budget.acquire(6)
    returned = acquire(budget, 5)
    budget.release(4)
    assert not returned.wait(0.05)
    budget.release(6)
    assert returned.wait(TIMEOUT_S) and budget.used == 5


def test_a_picture_larger_than_the_limit_is_admitted_alone(acquire):
    budget = PixelBudget(10)
    budget.acquire(1)
    returned = acquire(budget, 100)
    assert not returned.wait(0.05)
    budget.release(1)
    assert returned.wait(TIMEOUT_S) and budget.used == 100
    assert not acquire(budget, 1).wait(0.05)


def test_add_counts_beyond_the_limit_without_blocking():
    budget = PixelBudget(10)
    budget.add(11)
    assert budget.used == 11 and not budget.fits(0)
    budget.release(11)
    assert budget.fits(10) and not budget.fits(11)


def test_close_ends_waiting_and_later_calls_of_acquire():
    budget, raised = PixelBudget(10), []
    budget.acquire(10)

    def wait():
        with pytest.raises(BudgetClosed):
            budget.acquire(1)
        raised.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    budget.close()
    thread.join(TIMEOUT_S)
    assert raised == [True] and budget.used == 10
    with pytest.raises(BudgetClosed):
        budget.acquire(0)
