"""Brings a database to the newest revision.

In: an engine. Out: nothing; the tables are there. This module must never guess a schema: each change is a file in `versions`.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from control_plane.database import SILENT, kind_of, writing
from control_plane.errors import Unavailable

FOLDER = Path(__file__).resolve().parent


def migrate(engine: Engine) -> None:
    """Upgrade to the newest revision. Again, and by several processes at once: the second finds nothing to do.

    One write transaction holds everything: a second process waits for the first, and a crash in the middle leaves the old schema.
    Raises Unavailable when the database does not answer, or stays locked for 30 seconds.
    """
    config = Config()
    config.set_main_option("script_location", str(FOLDER).replace("%", "%%"))
    newest = ScriptDirectory.from_config(config).get_current_head()
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        with writing(engine, alone="schema") as connection:
            if MigrationContext.configure(connection).get_current_revision() == newest:
                return
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    except SILENT as error:
        raise Unavailable(f"the database could not be brought up to date ({kind_of(error)})") from error
