"""What the readers share: fields of records, and the error of a wrong one."""

from typing import Any

_SHOWN = 60  # characters of a wrong value in a message


class FieldError(Exception):
    """A record is refused; ``reason`` and ``detail`` are those of its
    :class:`~sage_core.corpus.records.BadRecord`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def text(record: dict[str, Any], key: str, at: str = "") -> str:
    """A field that must be a text. ``at``: where the record is within a larger one, for messages.

    Raises:
        FieldError: ``missing_field`` where it is missing or null, else ``wrong_type``.
    """
    value = record.get(key)
    if isinstance(value, str):
        return value
    raise wrong(value, f"{at}{key}", "a text")


def wrong(value: object, field: str, wanted: str) -> FieldError:
    """The error of a field that is missing or null, or not of the type ``wanted``."""
    if value is None:
        return FieldError("missing_field", f"'{field}' is missing or null")
    shown = repr(value)
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
    return FieldError("wrong_type", f"'{field}' is {shown}, not {wanted}")


def identifier(record: dict[str, Any], *keys: str) -> str:
    """The first of ``keys`` that is there, as text; "" where none is.

    pandas writes whole numbers as floats where one of a column is missing, and that one as NaN.

    Raises:
        FieldError: ``wrong_type`` for anything but a text or a whole number.
    """
    # A table's column of whole numbers with gaps comes as floats, a gap as NaN.
    there = (key for key in keys if record.get(key) is not None and record[key] == record[key])
    key = next(there, "")
    value = record[key] if key else ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong(value, key, "a text or a whole number")
    return str(value)


def needed(value: str, field: str) -> str:
    """``value``, which must not be empty. ``field``: its name, for messages.

    Raises:
        FieldError: ``missing_field``.
    """
    if not value:
        raise FieldError("missing_field", f"'{field}' is missing or empty")
    return value


def seconds(value: object, field: str) -> int:
    """Whole seconds of a number or of a text that holds one; null is 0. ``field``: its name, for
    messages.

    Raises:
        FieldError: ``wrong_type``, also for what does not fit 64 bits.
    """
    if type(value) is int:
        whole = value
    elif value is None:
        return 0
    elif isinstance(value, str | float):
        try:
            whole = int(float(value))
        except (ValueError, OverflowError):  # no number; infinite
            raise wrong(value, field, "a time in seconds") from None
    else:
        raise wrong(value, field, "a time in seconds")
    if not -(2**63) <= whole < 2**63:
        raise wrong(value, field, "a time in seconds")
    return whole
