"""Step-wise on-policy distillation (SOD, arXiv 2605.07725) for small tool-using language models.

`sod.core` is the paper as tensor functions and needs torch alone; `sod --help` shows the rest.
"""

__version__ = "0.1.0"

from sod.moved import install

install()
