"""How gunicorn runs the control plane: `gunicorn -c control_plane/web/gunicorn_conf.py`, from the repository's root.

In: `POSTHUMAN_*` settings. Out: gunicorn's variables. This module must never import the application: each worker does, after the
fork, when the folder of its metrics is known.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from control_plane.settings import read_settings

wsgi_app = "control_plane.wiring:application()"
_settings = read_settings()
_metrics = _settings.home / "run" / "metrics"
_metrics.mkdir(parents=True, exist_ok=True)

bind = f"127.0.0.1:{_settings.web_port}"
worker_class = "gthread"
workers = _settings.web_workers
threads = _settings.web_threads
worker_connections = 1000
timeout = int(_settings.call_timeout_s) + 30
graceful_timeout = 30
keepalive = 75
preload_app = False
worker_tmp_dir = str(_settings.home / "run")
control_socket_disable = True  # by default gunicorn 27 puts a socket into the home folder of whoever runs it
proc_name = "posthuman-web"


def on_starting(_server: Any) -> None:
    """A new master counts from zero; workers find the folder through the variable that prometheus-client reads when imported."""
    shutil.rmtree(_metrics)
    _metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics)


def child_exit(_server: Any, worker: Any) -> None:
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]  # prometheus-client 0.26 leaves it untyped
