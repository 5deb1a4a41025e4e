"""What a flow run that is started again looks at, and which error is shown."""

import pytest

from flows.cli import first_of_ours
from flows.runners import died_cancelling
from sage_core.errors import ArtifactError, SageError


@pytest.mark.parametrize(
    ("states", "cancelling"),
    [
        ("SCHEDULED PENDING RUNNING CRASHED SCHEDULED PENDING RUNNING", False),
        ("SCHEDULED PENDING RUNNING CANCELLING CRASHED SCHEDULED PENDING RUNNING", True),
        # Retried in the UI after a cancel that went through.
        ("SCHEDULED PENDING RUNNING CANCELLING CANCELLED SCHEDULED PENDING RUNNING", False),
        # That one crashed in turn: the cancel was of an earlier start.
        (
            "PENDING RUNNING CANCELLING CANCELLED SCHEDULED PENDING RUNNING CRASHED SCHEDULED "
            "PENDING RUNNING",
            False,
        ),
        ("SCHEDULED PENDING CANCELLING CRASHED SCHEDULED PENDING RUNNING", True),
    ],
)
def test_a_run_that_died_while_it_was_cancelled_stays_cancelled(
    states: str, cancelling: bool
) -> None:
    assert died_cancelling(states.split()) == cancelling


def raised(*errors: Exception) -> Exception:
    """The last of some errors, each raised while the one before is handled."""
    first, *rest = errors
    try:
        raise first
    except Exception as error:
        if not rest:
            return error
        try:
            raise rest[0]
        except Exception as second:
            return raised(second, *rest[1:]) if rest[1:] else second


def test_an_error_while_ours_is_reported_does_not_hide_it() -> None:
    ours = ArtifactError("free space")
    assert first_of_ours(raised(ours, OSError(28, "No space left on device"))) is ours
    assert first_of_ours(raised(ours, KeyError("a"), ValueError("b"))) is ours
    assert first_of_ours(ours) is ours
    assert first_of_ours(raised(KeyError("a"), ValueError("b"))) is None
    later = SageError("what was found out")
    assert first_of_ours(raised(KeyError("a"), later)) is later
