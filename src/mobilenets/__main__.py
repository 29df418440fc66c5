"""`python -m mobilenets`."""

from .cli.main import main

__all__ = ["main"]

main()
