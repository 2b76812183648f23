"""Formats numbers for people."""

import math
from collections.abc import Sequence
from typing import Any


def plain(value: Any) -> str:
    """Formats any value briefly: integers in full, others to four digits, None as a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, (int, float)):
        if abs(value) >= 1000 or float(value).is_integer():
            return f"{value:,.0f}"
        return f"{value:.4g}"
    return str(value)


def number(value: float | None, std: float | None = None) -> str:
    """Writes a number, with its standard deviation if given."""
    return plain(value) if std is None else f"{plain(value)} ± {plain(std)}"


def percent(value: float | None, std: float | None = None) -> str:
    """Writes a fraction in per cent, with its standard deviation if given."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{100 * value:.2f} %" if std is None else f"{100 * value:.2f} ± {100 * std:.2f} %"


def duration(seconds: float) -> str:
    """Formats a duration in seconds, minutes or hours."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {seconds} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def count(value: float | None) -> str:
    """Writes a count, or a mean of counts to one decimal."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.1f}"


def loss(value: float, std: float | None = None) -> str:
    """Writes a loss."""
    return f"{value:.5f}" if std is None else f"{value:.5f} ± {std:.5f}"


def score(value: float, std: float | None = None) -> str:
    """Writes a noise score."""
    return f"{value:,.0f}" if std is None else f"{value:,.0f} ± {std:,.0f}"


def several(values: Sequence[float | None], swept: bool, write: Any) -> str:
    """Writes one number, mean ± standard deviation over seeds, or the range over settings; a dash if one is not finite.

    `result.json` has None for numbers that are not finite.
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if len(known) < len(values):
        return plain(None)
    values = known
    if len(values) == 1:
        return write(values[0])
    if swept:
        low, high = write(min(values)), write(max(values))
        return low if low == high else f"{low.removesuffix(' %')} to {high}"
    mean = sum(values) / len(values)
    return write(mean, math.sqrt(sum((value - mean) ** 2 for value in values) / len(values)))


def exact(value: Any) -> str:
    """Formats a configured value in full, as on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(exact(item) for item in value)
    return str(value)
