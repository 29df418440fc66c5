"""The engines themselves, one a file; `runtime.ENGINES` says which there are and opens them."""

__all__: list[str] = []
