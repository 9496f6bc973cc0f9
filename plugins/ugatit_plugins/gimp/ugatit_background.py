"""Work in a thread while GIMP shows that something is going on.

GIMP's own calls belong to the main thread: what a thread has to say is handed over to it.
"""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

from gi.repository import GLib

ResultT = TypeVar("ResultT")

_PULSE = 100  # milliseconds


def on_main(call: Callable[..., object], *arguments: object) -> None:
    """Have the main thread make a call as soon as it can."""

    def once() -> bool:
        call(*arguments)
        return GLib.SOURCE_REMOVE

    GLib.idle_add(once)


def unthought_of(error: Exception) -> str:
    """Words for the user about what never should have happened."""
    what = traceback.format_exception_only(type(error), error)[-1].strip()
    return f"Something went wrong that never should: {what}\nStart GIMP in a terminal; it tells more there."


def wait_for(work: Callable[[], ResultT], pulse: Callable[[], object]) -> ResultT:
    """Do some work in a thread; the main thread goes on answering GIMP.

    Args:
        work: makes no call to GIMP.
        pulse: called on the main thread ten times a second.

    Returns:
        What `work` returned; what it raised is raised here.
    """
    loop = GLib.MainLoop()

    def tick() -> bool:
        pulse()
        return GLib.SOURCE_CONTINUE

    with ThreadPoolExecutor(1, "ugatit") as threads:
        future = threads.submit(work)
        future.add_done_callback(lambda _: on_main(loop.quit))
        timer = GLib.timeout_add(_PULSE, tick)
        loop.run()
        GLib.source_remove(timer)
        return future.result()
