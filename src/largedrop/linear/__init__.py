"""Linear fine-tuning: the model of section 3.2, on features that are computed once."""

from __future__ import annotations
