"""Waits that have a bound and say what they waited for."""

import time


class TooLate(AssertionError):
    """What was waited for did not happen in the time."""


def wait_for(what, seconds_max, obstacle, every=0.05):
    """Calls `obstacle` until it returns nothing; the seconds that took. It returns what is still missing."""
    began = time.monotonic()
    while True:
        missing = obstacle()
        waited = time.monotonic() - began
        if not missing:
            return waited
        if waited > seconds_max:
            raise TooLate(f"{what}: not after {seconds_max} s: {missing}")
        time.sleep(every)
