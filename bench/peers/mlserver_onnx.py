"""MLServer's runtime for one ONNX graph: `implementation` of a model whose `parameters.uri` is the graph.

In: tensors by the Open Inference Protocol. Out: the outputs that were asked for. Runs in MLServer's environment: this module must
never import anything of this project but its neighbour.
"""

from graph import opened
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Onnx(MLModel):
    async def load(self) -> bool:
        self._session = opened(self.settings.parameters.uri)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        feeds = {tensor.name: NumpyCodec.decode_input(tensor) for tensor in payload.inputs}
        names = [output.name for output in payload.outputs]
        given = zip(names, self._session.run(names, feeds), strict=True)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(name, value) for name, value in given])
