"""Values under the pointer in still pictures: the marks of an SVG get `<title>` elements, which browsers show."""

from __future__ import annotations

import re

# A mark that Vega wrote for one datum: an element without content that carries its description. Axes and legends are
# groups with content, so they are left alone.
_MARK = re.compile(r'<(path|line|rect|circle)\b([^<>]*?) aria-label="([^"<>]*)"([^<>]*?)/>')
_ROLES = re.compile(r' (?:role="graphics-(?:object|symbol)"|aria-(?:roledescription|label)="[^"]*")')


def titled(svg: str) -> str:
    """Give every described mark of an SVG a `<title>`, so that it tells its value without a script.

    Args:
        svg: as Vega writes it for a chart with a `description` encoding.

    Returns:
        The same picture; roles and labels of its parts are taken out, since a page describes a figure as a whole.

    >>> titled('<path aria-label="layer1: 0.4" d="M0,0h1v1z"/>')
    '<path d="M0,0h1v1z"><title>layer1: 0.4</title></path>'
    """
    return _ROLES.sub("", _MARK.sub(r"<\1\2\4><title>\3</title></\1>", svg))
