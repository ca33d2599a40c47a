"""Every random stream as a function of (seed, purpose, step), so that nothing random has hidden state.

A stream is opened where it is used, from numbers alone::

    generator = torch.Generator(device).manual_seed(mix_seed(seed, "negatives", step))

Two purposes never share a stream, a later step does not depend on how many numbers an earlier one drew,
and a run that is continued at step s needs to remember nothing but s.
"""

from __future__ import annotations

import hashlib

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """One output in [0, 2⁶⁴) of the SplitMix64 generator whose state is ``state`` modulo 2⁶⁴.

    A bijection of 64-bit words in which each input bit flips about half of the output bits, so that
    neighboring states (step 7, step 8) give unrelated words. Source: Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", OOPSLA 2014.
    """
    word = (state + _GOLDEN) & _MASK
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & _MASK
    return word ^ (word >> 31)


def mix_seed(*parts: int | str) -> int:
    """Mix integers and words into one seed in [0, 2⁶³): the key of a random stream.

    h ← splitmix64(h XOR part) over the parts in their order, starting from h = 0; the top 63 bits of the
    last h. Integers count modulo 2⁶⁴; a word, such as the purpose of the stream, counts as the first eight
    bytes of its SHA-256. The order and the number of parts matter: (1, 2), (2, 1) and (1, 2, 0) are three
    different streams. The result is the same on every machine and in every Python process.
    """
    state = 0
    for part in parts:
        if isinstance(part, str):
            part = int.from_bytes(hashlib.sha256(part.encode()).digest()[:8], "little")
        state = splitmix64(state ^ (part & _MASK))
    # torch.Generator.manual_seed and numpy's int64 both take 63 bits; the CPU generator of torch keeps the
    # low 32 of them, which are as well mixed as the others.
    return state >> 1
