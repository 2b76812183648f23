"""A figure of a run folder, and the words its captions share."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Drawing(NamedTuple):
    """A figure that can be drawn at either width, and what the page says of it."""

    file: str
    title: str
    caption: str
    alt: str
    draw: Callable[[Any], Any]
    width: Any = "page"


def on_average(result: Mapping[str, Any]) -> str:
    """Says of a number in a caption that it is a mean, where there are several networks."""
    return f", on average over {len(result['members'])} networks" if len(result["members"]) > 1 else ""


def what_is_drawn(result: Mapping[str, Any]) -> str:
    """Explains lines and bands where there are several networks."""
    if len(result["members"]) == 1:
        return ""
    return " Thick lines are the median over networks, bands their range."
