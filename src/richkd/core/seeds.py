"""Seeds for independent random streams, as a function of (seed, purpose, step).

A generator is created where it is used, and there is no hidden random state::

    generator = torch.Generator(device).manual_seed(mix_seed(seed, "negatives", step))

Different purposes have different streams, and a step does not depend on how many random numbers an earlier
step used. To resume a run at step s, only s must be known.
"""

from __future__ import annotations

import hashlib

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """The output in [0, 2⁶⁴) of the SplitMix64 generator for the state ``state`` modulo 2⁶⁴.

    The function is a bijection of 64-bit words. Changing one input bit changes about half of the output
    bits, so neighboring states (step 7, step 8) give unrelated words. Source: Steele, Lea and Flood 2014,
    "Fast splittable pseudorandom number generators", OOPSLA.

    Example:
        >>> splitmix64(1234567)
        6457827717110365317
    """
    word = (state + _GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def mix_seed(*parts: int | str) -> int:
    """Mix integers and strings into the seed of a random stream, in [0, 2⁶³).

    h ← splitmix64(h XOR part) for each part in order, starting from h = 0. The result is the upper 63 bits of
    the last h. Integers are taken modulo 2⁶⁴. A string, such as the purpose of the stream, is replaced by the
    first eight bytes of its SHA-256. The order and the number of parts matter: (1, 2), (2, 1) and (1, 2, 0)
    give different seeds. The result is the same on every machine and in every Python process.

    Example:
        >>> mix_seed(0, "negatives", 7) == mix_seed(0, "negatives", 7)
        True
        >>> mix_seed(0, "negatives", 7) == mix_seed(0, "negatives", 8)
        False
    """
    state = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "little")
        state = splitmix64(state ^ (part & _MASK))
    # torch.Generator.manual_seed and NumPy's int64 accept 63 bits. The CPU generator of PyTorch uses only the
    # lower 32, which are mixed as well as the others.
    return state >> 1
