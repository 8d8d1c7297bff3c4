"""Parts of pages: HTML files that open offline, whose text is escaped here."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from DDA.settings import as_list


def document(title: str, verdict: str, note: str, sections: Mapping[str, str]) -> str:
    """Return a page. verdict, note: texts below its title. sections: HTML by their titles."""
    style = Path(__file__).with_name("report.css").read_text(encoding="utf-8")
    head = (
        "<meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    body = f"<h1>{escape(title)}</h1><p class=verdict>{escape(text(verdict))}</p>"
    body += f"<p class=note>{escape(text(note))}</p>"
    for name, content in sections.items():
        if content:
            body += f"<section><h2>{escape(name)}</h2>{content}</section>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>\n"


def table(heads: Sequence[str], rows: Sequence[str]) -> str:
    """Return a table. heads: texts. rows: those of `row`."""
    cells = "".join(f"<th>{safe(one)}</th>" for one in heads)
    head = f"<tr>{cells}</tr>" if heads else ""
    return f"<div class=wide><table>{head}{''.join(rows)}</table></div>"


def row(head: str, cells: Sequence[Any]) -> str:
    """Return a line of a table. Lists are shown with commas."""
    shown = "".join(f"<td>{safe(', '.join(map(str, as_list(cell))))}</td>" for cell in cells)
    return f"<tr><th>{safe(head)}</th>{shown}</tr>"


def figure(
    name: str,
    views: Mapping[str, np.ndarray],
    caption: str,
    answers: Iterable[tuple[str, bool]],
) -> str:
    """Return an image with its views and what was answered.

    name: that of the image. views: uint8 (H,W,3), by their names. caption: HTML. answers: texts,
    and whether they are right.
    """
    pictures = "".join(
        f"<div class=view>{picture(pixels)}<span>{safe(view)}</span></div>"
        for view, pixels in views.items()
    )
    items = "".join(
        f"<li class={'right' if is_right else 'wrong'}>{safe(answer)}</li>"
        for answer, is_right in answers
    )
    caption = f"<figcaption>{caption}<ul>{items}</ul></figcaption>"
    return f"<figure class=views title='{safe(name)}'>{pictures}{caption}</figure>"


def folded(title: str, content: str) -> str:
    """Return content that a click on its title opens. title: a text. content: HTML."""
    return f"<details><summary>{safe(title)}</summary>{content}</details>"


def safe(value: object) -> str:
    """Return a text from data as HTML that shows it, also within an attribute."""
    return escape(text(str(value)), quote=True)


def text(value: str) -> str:
    """Return a text that can be written; bytes of names that are no text become escapes."""
    return value.encode("utf-8", "backslashreplace").decode()


def picture(pixels: np.ndarray, side: int = 96) -> str:
    """Return an image inside the page.

    Small images stay as they are, and the browser enlarges them without blur. Large ones shrink.
    """
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    size, kind = ("large", "jpeg") if max(image.size) > side else ("small", "png")
    image.thumbnail((2 * side, 2 * side))
    image.save(buffer, kind, quality=80)
    content = base64.b64encode(buffer.getvalue()).decode()
    return f"<img alt='' class={size} src='data:image/{kind};base64,{content}'>"
