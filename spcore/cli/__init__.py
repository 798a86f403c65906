"""The command line. A file for each command; a command imports what it needs when it runs, so `--help` stays quick.

Results go to stdout, everything else to stderr. Exit codes: 0; 2 for what the user typed or supplied; 1 for what broke.
"""

from __future__ import annotations

import io
import signal
import sys


def main() -> None:
    """Entry point of `slimpajama`, `sp` and `python -m slimpajama`."""
    try:
        _plain_streams()
        from spcore.cli.app import app
        from spcore.errors import RankError, SlimPajamaError
    except KeyboardInterrupt:  # later ones are the command's
        sys.exit(130)
    name = "slimpajama" if sys.argv[0].endswith("__main__.py") else None
    try:
        app(prog_name=name)
    except SlimPajamaError as error:
        from spcore.cli.output import complain, note

        if isinstance(error, RankError):
            note(error.traceback.rstrip())
        complain(str(error))
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of stdout went away, as `head` does
        sys.stderr.close()
        sys.exit(141)
    except KeyboardInterrupt:  # one more while the one before was being told of
        sys.exit(130)
    finally:
        # While Python ends, one more ends it: raised in a library's handler at exit it would show that library's trace.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _plain_streams() -> None:
    """Bytes on stdin that are no text come in as what commands refuse in a line; what stdout's encoding lacks goes out as \\uXXXX."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
