"""Both databases that a market may have: SQLite in a file, and a real PostgreSQL server on a free port, one a run.

The server's data lies in a folder of its own and is removed with it. It sorts text as English does and not by bytes, so that an
order that only bytes have shows. A test has a database of its own; after it the next one has it, emptied, since making one takes a
tenth of a second and 8 MB.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from sqlalchemy import Engine

from control_plane.database import metadata, open_database
from control_plane.migrations.migrate import migrate
from deploy.local.ports import HOST, free_port

with suppress(ImportError):  # tests that need it are skipped without it
    import psycopg

BOTH_DATABASES = ("sqlite", "postgresql")
MIGRATED = "migrated"
USER = "posthuman"
STARTS_WITHIN_S = 60.0
_NUMBERS = itertools.count()


def server_programs() -> Path | None:
    """The folder of `postgres` and `initdb`: on the path, or where Debian and Ubuntu put the newest."""
    if (found := shutil.which("postgres")) is not None and (Path(found).parent / "initdb").exists():
        return Path(found).parent
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    return max(folders, key=lambda folder: int(folder.parent.name), default=None)


def server_user() -> str | None:
    """Whom the server runs as: it refuses root. None: whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def run_as(user: str | None, folder: Path) -> dict[str, object]:
    """For `subprocess`: that user, without root's groups."""
    told: dict[str, object] = {"cwd": folder, "stdin": subprocess.DEVNULL}
    return told if user is None else {**told, "user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def room_for(user: str | None) -> Path:
    """A new folder that is this user's, where every folder above it lets him in."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        folder = Path(tempfile.mkdtemp(prefix="posthuman-postgresql-", dir=parent))
        if user is None:
            return folder
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
        if subprocess.run(["test", "-w", str(folder)], **run_as(user, folder), stderr=subprocess.DEVNULL).returncode == 0:  # type: ignore[call-overload]  # as run_as has them
            return folder
        folder.rmdir()
    pytest.skip(
        f"no folder for temporary files that user {user} may enter, and PostgreSQL refuses root: run `make test TMPDIR=FOLDER`"
    )


_libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """Also when the tests are killed: the server gets SIGQUIT when the thread that started it ends."""
    _libc.prctl(1, signal.SIGQUIT, 0, 0, 0)  # PR_SET_PDEATHSIG


@dataclass
class PostgresServer:
    """Its databases answer on 127.0.0.1 to whoever knows the password."""

    programs: Path
    folder: Path
    user: str | None
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    process: subprocess.Popen[bytes] | None = None
    free: list[str] = field(default_factory=list)

    def make(self) -> None:
        (self.folder / "password").write_text(self.password)
        (self.folder / "password").chmod(0o644)  # its folder is closed to others
        self._run(
            "initdb", "-D", str(self.folder / "data"), "-U", USER, "--pwfile", str(self.folder / "password"), "--no-sync",
            "-E", "UTF8", "--auth", "scram-sha-256", "--locale-provider", "icu", "--icu-locale", "en-US",
        )  # fmt: skip
        self.start()
        self.ask(f"CREATE DATABASE {MIGRATED}")
        engine = open_database(self.url(MIGRATED))
        migrate(engine)
        engine.dispose()

    def start(self) -> None:
        """Again: does nothing while it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        settings = {
            "listen_addresses": HOST,
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on",
            "max_connections": "200",
            "shared_buffers": "32MB",
            "log_min_messages": "warning",
        }
        arguments = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        until = time.monotonic() + STARTS_WITHIN_S
        with (self.folder / "server.log").open("ab") as log:
            while True:  # a killed server's processes may hold its shared memory for a moment, and then it ends at once
                self.process = subprocess.Popen(
                    [str(self.programs / "postgres"), "-D", str(self.folder / "data"), *arguments],
                    **run_as(self.user, self.folder),  # type: ignore[call-overload]  # as run_as has them
                    stdout=log,
                    stderr=log,
                    preexec_fn=_die_with_parent,
                )
                while self.process.poll() is None:
                    with suppress(psycopg.OperationalError):
                        psycopg.connect(self.plain_url("postgres"), connect_timeout=2).close()
                        return
                    assert time.monotonic() < until, self.log()
                    time.sleep(0.05)
                assert time.monotonic() < until, self.log()
                time.sleep(0.2)

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: connections are cut, all is written. SIGQUIT and SIGKILL: as a crash. Again: does nothing."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)

    def log(self) -> str:
        return (self.folder / "server.log").read_text(errors="replace")[-4000:]

    def url(self, database: str) -> str:
        return f"postgresql+psycopg://{USER}:{self.password}@{HOST}:{self.port}/{database}"

    def plain_url(self, database: str) -> str:
        return self.url(database).replace("+psycopg", "")

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """Outside of any transaction, as the database's owner."""
        with psycopg.connect(self.plain_url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a database that is migrated and empty; of no use to anybody afterwards."""
        name = next((each for each in [self.free.pop() for _ in self.free] if self._is_emptied(each)), None) or self._new(MIGRATED)
        try:
            yield self.url(name)
        finally:
            self.free.append(name)

    @contextmanager
    def bare_database(self) -> Iterator[str]:
        """The URL of one without tables."""
        name = self._new("template0")
        yield self.url(name)
        self.ask(f"DROP DATABASE {name} WITH (FORCE)")

    def _new(self, template: str) -> str:
        name = f"market_{next(_NUMBERS)}"
        self.ask(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def _is_emptied(self, name: str) -> bool:
        """False where a test has changed its tables."""
        ended = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"  # noqa: S608  # names of ours
        gone = [f"DELETE FROM {table}" for table in metadata.tables]  # noqa: S608  # names of ours
        again = ["SELECT setval(oid, 1, false) FROM pg_class WHERE relkind = 'S'"]
        try:
            self.ask("; ".join([ended, *gone, *again]), name)
        except psycopg.errors.UndefinedTable:
            return False
        return True

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        done = subprocess.run(command, **run_as(self.user, self.folder), capture_output=True, text=True)  # type: ignore[call-overload]  # as run_as has them
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgresServer]:
    """A server that runs. Tests that kill it start it again."""
    programs = server_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server: `apt-get install postgresql`, then `make test`")
    pytest.importorskip("psycopg", reason="no driver for PostgreSQL: `make setup` installs it")
    user = server_user()
    server = PostgresServer(programs, room_for(user), user)
    try:
        server.make()
        yield server
    finally:
        server.end(signal.SIGQUIT)
        shutil.rmtree(server.folder)


@contextmanager
def _opened(
    request: pytest.FixtureRequest, tmp_path: Path, of_server: Callable[[PostgresServer], AbstractContextManager[str]]
) -> Iterator[str]:
    """The URL of the kind that the request names: a new file, or what `of_server` gives."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'posthuman.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgresql")
    server.start()
    with of_server(server) as url:
        yield url


@contextmanager
def engines_on(url: str) -> Iterator[Callable[[], Engine]]:
    """Engines on one database, as several processes have them; closed afterwards."""
    engines: list[Engine] = []

    def one_more() -> Engine:
        engines.append(open_database(url))
        return engines[-1]

    yield one_more
    for engine in engines:
        engine.dispose()


@pytest.fixture(params=BOTH_DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database that is migrated, once of each kind."""
    with _opened(request, tmp_path, PostgresServer.database) as url:
        if request.param == "sqlite":
            engine = open_database(url)
            migrate(engine)
            engine.dispose()
        yield url


@pytest.fixture(params=BOTH_DATABASES)
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database without tables, once of each kind."""
    with _opened(request, tmp_path, PostgresServer.bare_database) as url:
        yield url


@pytest.fixture
def open_engine(database_url: str) -> Iterator[Callable[[], Engine]]:
    with engines_on(database_url) as opened:
        yield opened


def silencing(engine: Engine) -> str:
    """A statement after which the database does not answer, in this transaction at least."""
    return "SELECT pg_terminate_backend(pg_backend_pid())" if is_postgresql(engine) else "SELECT * FROM no_such_table"


def shown_whole(engine: Engine) -> str:
    """The URL with its password, for another process."""
    return engine.url.render_as_string(hide_password=False)


def is_postgresql(engine: Engine) -> bool:
    return engine.dialect.name == "postgresql"
