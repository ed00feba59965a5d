"""What a function takes, without a look at what its annotations mean."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 14):  # https://peps.python.org/pep-0649/
    from annotationlib import Format

    def signature_of(function: Callable[..., Any]) -> inspect.Signature:
        """Return a function's signature; raises `TypeError` or `ValueError` where it has none.

        An annotation may name what exists for a checker alone, or is defined further down: Python 3.14 would evaluate it here.
        """
        return inspect.signature(function, annotation_format=Format.FORWARDREF)
else:

    def signature_of(function: Callable[..., Any]) -> inspect.Signature:
        """Return a function's signature; raises `TypeError` or `ValueError` where it has none."""
        return inspect.signature(function)
