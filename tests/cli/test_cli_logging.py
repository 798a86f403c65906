from __future__ import annotations

import logging

from typer.testing import CliRunner

from spcore.cli.app import app


def test_a_command_called_in_a_program_leaves_logging_as_it_was() -> None:
    logger = logging.getLogger("slimpajama")
    before = (list(logger.handlers), logger.propagate, logger.level)
    for arguments in (["plugins", "list"], ["plugins", "show", "optimizer/none"]):
        CliRunner().invoke(app, arguments)
        assert (list(logger.handlers), logger.propagate, logger.level) == before
