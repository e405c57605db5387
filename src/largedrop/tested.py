"""Which domains a run trains on and is tested on."""

from __future__ import annotations

from typing import Protocol, TypeVar

from .names import names_in

__all__ = ["Tested"]

Split = TypeVar("Split", covariant=True)


class Splits(Protocol[Split]):
    """The method of ``data.dataset.Dataset`` that a config calls, without an import of either by the other."""

    def split(self, test_domains: tuple[str, ...], seed: int, held_out: float, left_out: str, /) -> Split: ...


class Tested:
    """What follows from the fields of a ``Config`` that say which images are for what; see there."""

    test_domain: str
    also_tested: str
    left_out: str
    held_out: float
    seed: int

    @property
    def test_domains(self) -> tuple[str, ...]:
        """Names of the domains for the o.o.d. score, none of which is trained on; empty where there is no score."""
        return tuple(filter(None, (self.test_domain, *names_in(self.also_tested))))

    @property
    def unseen(self) -> tuple[str, ...]:
        """Names of all domains that are not trained on."""
        return (*self.test_domains, *filter(None, (self.left_out,)))

    @property
    def split_key(self) -> tuple[tuple[str, ...], int, float, str]:
        """The arguments of ``Dataset.split``."""
        return self.test_domains, self.seed, self.held_out, self.left_out

    def split_of(self, data: Splits[Split]) -> Split:
        """The split of ``data`` for this run."""
        return data.split(*self.split_key)
