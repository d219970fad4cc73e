"""One ONNX graph as our own backend opens it, for the servers that ours is compared with.

In: a graph's file. Out: its session. Runs in a peer's environment: this module must never import anything of this project.
"""

import os

import onnxruntime


def opened(path: str) -> onnxruntime.InferenceSession:
    """With the options of `model_repository/backends/opening/entry.py` for the backend `predict`: all cores, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
