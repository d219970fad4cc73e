"""The migrated schema is the one the code queries, however often and by however many it is brought up to date."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, insert, inspect

from control_plane.database import assets, jobs, metadata
from control_plane.migrations import migrate
from control_plane.migrations.migrate import FOLDER
from tests.fixtures_database import engines_on, is_postgresql

REPOSITORY = Path(__file__).parents[3]
Opened = Callable[[], Engine]


@pytest.fixture
def opened(bare_url: str) -> Iterator[Opened]:
    """Engines on one database without tables."""
    with engines_on(bare_url) as one_more:
        yield one_more


def test_the_migrated_schema_is_that_of_the_tables(opened: Opened) -> None:
    engine = opened()
    migrate(engine)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []
    found = {index["name"] for index in inspect(engine).get_indexes("receipts")}
    assert "receipts_waiting" in found
    uniques = {tuple(unique["column_names"]) for unique in inspect(engine).get_unique_constraints("receipts")}
    assert uniques == {("order_tx", "sequence"), ("receipt_id",), ("call_id",), ("leaf_index",)}


def test_migrating_again_keeps_every_row(opened: Opened) -> None:
    engine = opened()
    migrate(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO nonces VALUES ('nonce', 1.0)")
    migrate(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT nonce FROM nonces").scalar_one() == "nonce"


def test_a_database_of_0002_is_brought_up_to_date_with_all_its_rows(opened: Opened) -> None:
    engine = opened()
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
    assert "answers" not in inspect(engine).get_table_names()
    with engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO nonces VALUES ('nonce', 1.0)")
    migrate(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT nonce FROM nonces").scalar_one() == "nonce"
        assert connection.exec_driver_sql("SELECT count(*) FROM answers").scalar_one() == 0
        assert compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata) == []


def test_threads_that_migrate_at_once_do_not_meet(opened: Opened) -> None:
    def one(_number: int) -> None:
        engine = opened()
        migrate(engine)
        engine.dispose()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(one, range(6)))


def test_processes_that_migrate_at_once_do_not_meet(opened: Opened, bare_url: str) -> None:
    script = (
        "import sys; from control_plane.database import open_database; from control_plane.migrations import migrate;"
        "migrate(open_database(sys.argv[1]))"
    )
    newest = max(path.name[:4] for path in (FOLDER / "versions").glob("0*.py"))
    processes = [subprocess.Popen([sys.executable, "-c", script, bare_url], cwd=REPOSITORY) for _ in range(4)]
    assert [process.wait(60) for process in processes] == [0] * 4
    with opened().connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").all() == [(newest,)]


def test_orders_that_were_counted_before_0007_stay_counted(opened: Opened) -> None:
    engine = opened()
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        for did, orders in (("did:op:1", 3), ("did:op:2", 0)):
            row = (did, f"nft of {did}", 7, "{}", "{}", "{}", orders, 0.0)
            connection.execute(insert(assets).values(row))
    migrate(engine)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT did, block, count FROM counted_orders").all() == [("did:op:1", 0, 3)]


def test_jobs_of_before_count_as_begun_when_a_worker_had_them(opened: Opened) -> None:
    engine = opened()
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0008")
        for name, started_at in (("taken", 5.0), ("waiting", None)):
            row = {
                **dict.fromkeys(("did", "model_digest", "owner", "algorithm_did", "parameters", "environment"), "x"),
                **dict.fromkeys(("valid_until", "paid_s", "created_at", "attempts"), 1),
                "job_id": name,
                "payment": name,
                "kind": "train",
                "state": "queued",
                "started_at": started_at,
            }
            connection.execute(insert(jobs).values(row))
    migrate(engine)
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT job_id, begun_at FROM jobs ORDER BY job_id").all()
    assert [tuple(each) for each in found] == [("taken", 5.0), ("waiting", None)]


def test_positions_have_64_bits(opened: Opened) -> None:
    engine = opened()
    migrate(engine)
    row = {"job_id": "j", "kind": "train", "did": "d", "model_digest": "m", "owner": "o", "payment": "p", "algorithm_did": "a"}
    row |= {"parameters": "{}", "environment": "e", "state": "queued"} | dict.fromkeys(("valid_until", "paid_s", "attempts"), 1)
    with engine.begin() as connection:
        connection.execute(insert(jobs).values(row | {"created_at": 1.0, "position": 2**40}))
        if is_postgresql(engine):
            counted = "SELECT sequencename, max_value FROM pg_sequences ORDER BY 1"
            found = [tuple(each) for each in connection.exec_driver_sql(counted)]
            assert found == [("jobs_position_seq", 2**63 - 1), ("receipts_position_seq", 2**63 - 1)]
