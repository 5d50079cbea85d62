"""The one exception for what a user can put right, and the one place that turns it into a command's exit."""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from ovdet.memory import reuse_freed_memory

_HOME = re.compile(
    r"""(?P<before>(-*[\w.-]+=)?(?P<quote>["']?))(?P<path>~[\w.-]*(/.*)?)(?P<after>(?P=quote))""", re.DOTALL
)

_OF_PATHS = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG)  # any look at such a path fails
_LIBRARY = re.compile(r"(?P<file>lib[\w.+-]+\.so[\d.]*): cannot open shared object file")
_OF_OPENCV = ("libGL.", "libX", "libxcb.", "libglib-", "libgthread-", "libSM.", "libICE.")  # bare systems lack them


class InputError(ValueError):
    """An error that the user can put right. The message is one line: what was expected, and what was given."""


def command(main: Callable[..., None]) -> Callable[..., None]:
    """Run a command line's `main`; an InputError becomes one line on stderr and exit code 2, ctrl-C one and 130.

    SIGTERM, from a scheduler or a container, ends it as ctrl-C does: what is done is kept, nothing half-written stays.
    A library that the system lacks is one line, too, and so is a path that it lets nobody look at. Freed memory is kept
    for reuse (see memory.py), and what libraries log to each other is left out. "~" is the home folder in every word of
    the command line: `expand_home`.
    """

    @functools.wraps(main)
    def run(*arguments: object) -> None:
        reuse_freed_memory()
        sys.stdout.reconfigure(errors="backslashreplace")  # files have names that no terminal's encoding has
        warnings.filterwarnings("ignore", message="pkg_resources is deprecated")  # detectron2's model zoo
        warnings.filterwarnings("ignore", message=r"Image size .*decompression bomb")  # PIL, of over 89 megapixels
        logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)  # detectron2's question for tracing
        logging.getLogger("detectron2.engine.train_loop").addFilter(_is_no_input_error)
        try:
            sys.argv[1:] = map(expand_home, sys.argv[1:])
            with _sigterm_unwinds():
                main(*arguments)
        except BrokenPipeError:  # `| head`: nobody reads on
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(141)
        except (InputError, ImportError, OSError) as error:
            message = _told(error)
            if message is None:
                raise
            print(f"error: {message}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)  # as shells have it: 128 and the signal's number

    return run


def _told(error: InputError | ImportError | OSError) -> str | None:
    """The one line that the user is told; None of what failed for other reasons than the system's or a path's."""
    if isinstance(error, ImportError):
        return missing_library(str(error))
    if isinstance(error, OSError):
        if error.errno not in _OF_PATHS or error.filename is None:
            return None
        name = str(error.filename)
        shown = name if len(name) <= 200 else f"{name[:100]}..."
        return f"expected a file or folder that can be reached, got {shown}: {error.strerror}"
    return input_error_of(str(error)) or " ".join(str(error).split())


def expand_home(word: str) -> str:
    """A word of a command line with "~" as the home folder, behind "=" too, where shells leave it: --output=~/runs.

    Raises:
        InputError: there is no such user or home folder; a folder of the name "~" would be made.
    """
    found = _HOME.fullmatch(word)
    if found is None:
        return word
    path = os.path.expanduser(found["path"])
    if path == found["path"]:
        raise InputError(f"expected a home folder for {path.split('/')[0]} in {word}, there is none")
    return f"{found['before']}{path}{found['after']}"


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM as SystemExit, in the process that the user started; by itself it ends a process where it stands."""
    if threading.current_thread() is not threading.main_thread() or multiprocessing.parent_process() is not None:
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, frame: object) -> None:
    for child in multiprocessing.active_children():
        if not child.daemon:  # one process per GPU: Python would wait for it
            child.terminate()
    sys.exit(128 + number)


def end_of_process(error: BaseException) -> int:
    """The exit code of a command, one of whose processes has failed: that one's own, which has said why.

    One that was killed could not say it: a line does.

    Args:
        error: torch's ProcessExitedException.
    """
    if error.exit_code >= 0:
        return error.exit_code
    name = signal.Signals(-error.exit_code).name
    why = ", most likely for memory" if name == "SIGKILL" else ""
    told = f"expected all processes to live, process {error.error_index} was ended by {name}{why}: --resume goes on"
    print(f"error: {told}", file=sys.stderr)
    return 128 - error.exit_code  # as shells have it


def first_line(error: BaseException, limit: int = 300) -> str:
    """The first line of an exception's message, for a message of one line; its type's name where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip()[:limit]


def error_summary(error: BaseException) -> str:
    """An exception's type and the first line of its message."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else 'no reason given'}"


def missing_library(message: str) -> str | None:
    """The message for an import that failed for want of a system library: what to install. None of other failures."""
    found = _LIBRARY.search(message)
    if found is None:
        return None
    told = f"expected the system's library {found['file']}, it is not installed"
    if not found["file"].startswith(_OF_OPENCV):
        return told
    return f"{told}; OpenCV needs it: apt-get install libgl1 libglib2.0-0 (Fedora: dnf install mesa-libGL glib2)"


def input_error_of(traceback: str) -> str | None:
    """The message of the InputError that another process (a data loader's worker, a cluster's) put into a traceback.

    Args:
        traceback: the text of the exception that came instead.

    Returns:
        None where no InputError is in it.
    """
    prefix = f"{InputError.__module__}.{InputError.__name__}: "
    lines = [line for line in traceback.splitlines() if line.startswith(prefix)]
    return lines[-1].removeprefix(prefix) if lines else None


def _is_no_input_error(record: logging.LogRecord) -> bool:
    """The training loop logs a traceback of whatever stops it; of a user's mistake one line is enough."""
    return not (record.exc_info and isinstance(record.exc_info[1], InputError))
