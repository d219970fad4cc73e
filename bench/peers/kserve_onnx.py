"""KServe's ModelServer with ONNX graphs: `python kserve_onnx.py PORT NAME=GRAPH ...`.

In: tensors by the Open Inference Protocol. Out: the outputs that were asked for. Runs in KServe's environment: this module must
never import anything of this project but its neighbour, and never listen anywhere but on 127.0.0.1.
"""

import sys
from typing import Any
from uuid import uuid4

import uvicorn
from graph import opened
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer


class Onnx(Model):
    def __init__(self, name: str, path: str) -> None:
        super().__init__(name)
        self._session = opened(path)
        self.ready = True

    def predict(self, payload: InferRequest, headers: Any = None, response_headers: Any = None) -> InferResponse:
        feeds = {tensor.name: tensor.as_numpy() for tensor in payload.inputs}
        names = [output.name for output in payload.request_outputs]
        outputs = []
        for name, value in zip(names, self._session.run(names, feeds), strict=True):
            output = InferOutput(name, list(value.shape), "FP32")
            output.set_data_from_numpy(value, binary_data=False)
            outputs.append(output)
        return InferResponse(payload.id or uuid4().hex, self.name, outputs)


class Local(uvicorn.Config):
    """KServe 0.21 binds to 0.0.0.0 and has no option for it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "host": "127.0.0.1"})


if __name__ == "__main__":
    uvicorn.Config = Local
    port, *graphs = sys.argv[1:]
    # KServe reads the command line when imported as well as here; it leaves alone what it does not know.
    ModelServer(http_port=int(port), workers=1, enable_grpc=False).start([Onnx(*graph.split("=", 1)) for graph in graphs])
