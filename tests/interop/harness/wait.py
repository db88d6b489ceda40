"""Waiting for something that can be seen, with a deadline; nothing here waits for time to pass."""

import asyncio
import os
import time

DEADLINE = float(os.environ.get("INGLE_TEST_DEADLINE", "30"))


class TooLate(AssertionError):
    """What was waited for did not happen; the text says what was seen instead."""


async def until(what, look, deadline=DEADLINE):
    """Looks until `look()` gives something true, and returns it."""
    end = time.monotonic() + deadline
    while True:
        seen = await look()
        if seen:
            return seen
        if time.monotonic() > end:
            raise TooLate(f"waited {deadline:.0f} s in vain until {what}")
        await asyncio.sleep(0.03)


async def until_equal(what, look, expected, deadline=DEADLINE):
    """Looks until `look()` gives `expected`; says what it gave instead when it never does."""
    seen = None

    async def matches():
        nonlocal seen
        seen = await look()
        return seen == expected

    try:
        await until(what, matches, deadline)
    except TooLate:
        raise TooLate(f"{what}\n--- expected\n{shown(expected)}\n--- seen\n{shown(seen)}") from None


def shown(value):
    return value if isinstance(value, str) else repr(value)
