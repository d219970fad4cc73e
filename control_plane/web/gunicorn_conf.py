"""How gunicorn runs the control plane: `gunicorn -c control_plane/web/gunicorn_conf.py`, from the repository's root.

In: `POSTHUMAN_*` settings. Out: gunicorn's variables. This module must never import the application: each worker does, after the
fork.
"""

from __future__ import annotations

from control_plane.settings import read_settings

wsgi_app = "control_plane.wiring:application()"
_settings = read_settings()
(_settings.home / "run").mkdir(parents=True, exist_ok=True)

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
