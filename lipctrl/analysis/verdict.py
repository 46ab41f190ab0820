"""The four words in which a loop is judged."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """What was shown about a loop; equal to, and printed as, its plain word.

    `CERTIFIED`: every policy of the class gives an incrementally stable loop. `INCONCLUSIVE`: the test did not
    decide; it never means unstable. `NOMINALLY_UNSTABLE`: already the centre of the class does not stabilise
    the plant (poles on the boundary and hidden modes count). `ILL_POSED`: an algebraic loop of the centre, or
    of some policy of the class, has no unique solution.
    """

    CERTIFIED = "certified"
    INCONCLUSIVE = "inconclusive"
    NOMINALLY_UNSTABLE = "nominally unstable"
    ILL_POSED = "ill-posed"
