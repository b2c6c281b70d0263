"""Pictures that read well on light and on dark pages: SVG whose colours follow the reader's system.

A picture is drawn in the colours below; `themed` turns each into a variable that has another value
where the system is dark. `Drawing` draws boxes and arrows.
"""

from html import escape

PICTURE_INK = "#1f2530"
MUTED = "#c3c8d0"
SERIES = ("#2563b8", "#c2701c", "#3f8a5a", "#8a5aa8")
FILLS = ("#e4edf9", "#f9ecdd", "#e3f1e8", "#f0e7f5")
"""Of boxes, one for each colour of SERIES."""

DARK = {
    PICTURE_INK: "#e6e9ee",
    MUTED: "#4a505c",
    **dict(zip(SERIES, ("#6ea8f0", "#e5a05c", "#74c294", "#c39adf"), strict=True)),
    **dict(zip(FILLS, ("#1c2f4a", "#46311c", "#1d3a29", "#382844"), strict=True)),
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


def themed(svg: str) -> str:
    """The picture with its colours as variables. `svg`: one whole <svg> element."""
    light, dark = [], []
    for number, (colour, other) in enumerate(DARK.items()):
        if colour in svg:
            svg = svg.replace(colour, f"var(--c{number})")
            light.append(f"--c{number}:{colour}")
            dark.append(f"--c{number}:{other}")
    style = (
        f"<style>svg{{{';'.join(light)}}}"
        f"@media (prefers-color-scheme:dark){{svg{{{';'.join(dark)}}}}}"
        f"text{{font-family:{FONT} !important}}</style>"
    )
    start = svg.index("<svg")
    end = svg.index(">", start) + 1
    return (
        "\n".join(line.rstrip() for line in (svg[start:end] + style + svg[end:]).splitlines())
        + "\n"
    )


class Drawing:
    """Boxes, arrows and words on a sheet of `width` x `height`."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img"><title>{escape(title)}</title>',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            f'markerHeight="7" orient="auto-start-reverse"><path d="M0 0L8 4L0 8z" '
            f'fill="{PICTURE_INK}"/></marker></defs>',
        ]

    def box(
        self, x: float, y: float, width: float, height: float, *lines: str, kind: int = 0
    ) -> None:
        """The first line is bold; `kind`: which of the colours."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" '
            f'fill="{FILLS[kind]}" stroke="{SERIES[kind]}" stroke-width="1.2"/>'
        )
        top = y + height / 2 - (len(lines) - 1) * 8 + 4.5
        for number, line in enumerate(lines):
            self.words(x + width / 2, top + 16 * number, line, bold=number == 0, middle=True)

    def frame(self, x: float, y: float, width: float, height: float, title: str) -> None:
        """A dashed border around several boxes, named at its top left."""
        self._parts.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="10" fill="none" '
            f'stroke="{PICTURE_INK}" stroke-opacity="0.5" stroke-dasharray="5 4"/>'
        )
        self.words(x + 12, y + 20, title, bold=True)

    def words(
        self, x: float, y: float, text: str, *, bold: bool = False, middle: bool = False
    ) -> None:
        weight = ' font-weight="600"' if bold else ""
        anchor = ' text-anchor="middle"' if middle else ""
        self._parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="13" fill="{PICTURE_INK}"{weight}{anchor}>'
            f"{escape(text)}</text>"
        )

    def arrow(self, *points: tuple[float, float], both: bool = False) -> None:
        """A line through the points, with a tip at its end (`both`: and at its start)."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        start = ' marker-start="url(#tip)"' if both else ""
        self._parts.append(
            f'<path d="{path}" fill="none" stroke="{PICTURE_INK}" stroke-width="1.3" '
            f'marker-end="url(#tip)"{start}/>'
        )

    def svg(self) -> str:
        return themed("\n".join([*self._parts, "</svg>"]))
