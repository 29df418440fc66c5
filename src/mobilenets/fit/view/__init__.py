"""The pieces of the page of a fit: markup, numbers in words, pictures in SVG, tables. No torch, no network."""

__all__: list[str] = []
