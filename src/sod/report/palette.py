"""All colours of the page and of the figures, for light and dark mode.

The hues are distinguishable for colour-blind readers (blue, vermilion, bluish green, amber). No information is shown by
colour alone: verdicts have words, lines have legends, weights have lengths.
"""

COLOURS = {
    # surfaces and text
    "page": ("#ffffff", "#14171a"),
    "panel": ("#f6f7f8", "#1c2024"),
    "rule": ("#dfe3e7", "#31373e"),
    "ink": ("#1b1f24", "#e4e8ec"),
    "muted": ("#5e6873", "#9aa5b1"),
    "link": ("#0b5cad", "#7db9f5"),
    # kinds of trajectories
    "clean": ("#23709f", "#62b1e6"),
    "erroneous": ("#c24f12", "#f28c52"),
    "recovery": ("#c99a0a", "#e9c350"),
    "right": ("#0b7a5c", "#4fc7a3"),
    # the teacher's signal on a token, and the weight of a step
    "more": ("#2a78d6", "#5a9df0"),
    "less": ("#e0641b", "#ee7f3c"),
    "weight": ("#5b4fa8", "#a79cf0"),
    # series with a legend: runs, phases, rules
    "series-1": ("#1f6fb4", "#6cb2f0"),
    "series-2": ("#c8571b", "#f0894a"),
    "series-3": ("#25896c", "#4cc3a0"),
    "series-4": ("#96509a", "#d08fd0"),
    "series-5": ("#c09000", "#e6bc45"),
    "series-6": ("#58a6d3", "#9bd4f6"),
    "series-7": ("#77762a", "#bdbb68"),
    "series-8": ("#6b7480", "#a4aeba"),
}
LIGHT = {name: light for name, (light, _) in COLOURS.items()}
SERIES = [light for name, light in LIGHT.items() if name.startswith("series-")]


def css() -> str:
    """Return the colours as CSS custom properties (`--ink` and so on), by the reader's preferred mode."""
    light, dark = ("".join(f"--{name}:{shades[theme]};" for name, shades in COLOURS.items()) for theme in (0, 1))
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"


def themed(svg: str) -> str:
    """Replace the light colours of an SVG by the page's custom properties."""
    for name, light in LIGHT.items():
        svg = svg.replace(light, f"var(--{name})")
    return svg
