"""The memory that a stage takes, of this process."""

import threading

from tasks.memory import peaks

BLOCK = 300_000_000  # bytes


def take() -> None:
    """Hold 0.3 GB for a moment, every page of it touched."""
    held = bytearray(BLOCK)
    for at in range(0, BLOCK, 4096):
        held[at] = 1


def test_the_peak_is_of_the_block_alone() -> None:
    with peaks() as before:
        pass
    with peaks() as during:
        take()
    with peaks() as after:
        pass
    assert during["peak_memory_gb"] - before["peak_memory_gb"] > 0.25
    assert during["peak_memory_gb"] - after["peak_memory_gb"] > 0.25


def test_a_block_of_another_thread_does_not_take_the_peak_away() -> None:
    def short() -> None:
        with peaks():
            pass

    with peaks() as before:
        pass
    with peaks() as long:
        take()
        other = threading.Thread(target=short)
        other.start()
        other.join()
    assert long["peak_memory_gb"] - before["peak_memory_gb"] > 0.25
