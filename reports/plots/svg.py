"""An SVG as matplotlib writes it, said in fewer bytes. It looks the same."""

from __future__ import annotations

import re
from collections import Counter

FONT = b"font-family: 'DejaVu Sans', sans-serif"  # said once, and not beside each text
# Turns by nothing, and names that nothing uses.
IDLE = re.compile(rb' transform="rotate\(-0 [^"]*"|(?<=<g) id="[\w.]+_\d+"|' + FONT + b"; ")
GEOMETRY = re.compile(rb'( (?:d|x|y)=")([^"]*)')  # places, and no text
HUNDREDTHS = re.compile(rb"(\.\d\d)\d+")
LINES = re.compile(rb'(?<= d=")M[^"CQ]*(?=")')  # without curves
SPACES = re.compile(rb"\s+")
INDENTED = re.compile(rb"\n *")
GROUP = re.compile(rb"<(/?)g\b([^>]*)>\n?")
STYLE = re.compile(rb' style="([^"]*)"')
OFTEN = 3  # times from which on a style has a name
TAG = re.compile(rb"<[^>]*>")
QUOTED = re.compile(rb"=\"([^\"']*)\"")


def lean(svg: bytes) -> bytes:
    """Return the same drawing, in about half of its length as an address of a page."""
    svg = LINES.sub(_relative, GEOMETRY.sub(_rounded, svg))
    svg = IDLE.sub(b"", svg).replace(b"<svg ", b'<svg style="' + FONT + b'" ', 1)
    svg = _named(_ungrouped(INDENTED.sub(b"\n", svg)))
    # In the address of a page a quotation mark takes three letters, an apostrophe one.
    return TAG.sub(lambda tag: QUOTED.sub(rb"='\1'", tag[0]), svg).replace(b">\n<", b"><")


def _rounded(attribute: re.Match[bytes]) -> bytes:
    """Hundredths of a point are finer than any screen."""
    return attribute[1] + SPACES.sub(b" ", HUNDREDTHS.sub(rb"\1", attribute[2])).strip()


def _relative(path: re.Match[bytes]) -> bytes:
    """Say of each place of a line how far it is from the one before: `M 1.5 2 L 1.75 3` -> `M1.5 2l.25 1`."""
    said, x, y, before, start = b"", 0, 0, b"", (0, 0)
    words = iter(path[0].split())
    for command in words:
        if command == b"z":
            said, before, (x, y) = said + command, command, start
            continue
        to_x, to_y = (round(100 * float(next(words))) for _ in range(2))
        moved = (to_x, to_y) if command == b"M" else (to_x - x, to_y - y)
        named = command if command == b"M" else b"l"
        text = b" ".join(_hundredths(number) for number in moved)
        said += (b" " if named == before == b"l" else named) + text
        x, y, before = to_x, to_y, named
        start = (x, y) if command == b"M" else start
    return said.replace(b" -", b"-")


def _hundredths(number: int) -> bytes:
    """`-25` -> `-.25`."""
    whole, rest = divmod(abs(number), 100)
    digits = b".%02d" % rest if rest else b""
    return (b"-" if number < 0 else b"") + (b"%d" % whole if whole or not rest else b"") + digits.rstrip(b"0")


def _ungrouped(svg: bytes) -> bytes:
    """Without the groups that say nothing of what is in them."""
    says: list[bool] = []

    def kept(tag: re.Match[bytes]) -> bytes:
        if tag[2].endswith(b"/"):  # nothing is in it
            return b""
        if not tag[1]:
            says.append(bool(tag[2]))
            return tag[0] if tag[2] else b""
        return tag[0] if says.pop() else b""

    return GROUP.sub(kept, svg)


def _named(svg: bytes) -> bytes:
    """With the styles that stand there often as classes of its style sheet."""
    often = [style for style, times in Counter(STYLE.findall(svg)).items() if times >= OFTEN]
    names = {style: b"s%d" % number for number, style in enumerate(often)}
    rules = b"".join(b".%s{%s}" % (name, style) for style, name in names.items())
    svg = STYLE.sub(lambda of: b' class="%s"' % names[of[1]] if of[1] in names else of[0], svg)
    return svg.replace(b"</style>", rules + b"</style>", 1)
