"""External data: plain names in the graph's own folder, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from converters.errors import ModelRefused
from converters.graph import graph_tensors, refuse_external_data
from tests.converters.sources import external_onnx

PLACES = ("initializer", "sparse", "constant", "tensors", "subgraph", "function", "training")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "weights").write_bytes(b"\0" * 16)
    (tmp_path / "secret").write_bytes(b"\0" * 16)
    return made


def write(folder: Path, location: str, place: str = "initializer", **keys: str) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(external_onnx(location, place, **keys))
    return path


@pytest.mark.parametrize("place", PLACES)
def test_a_plain_file_beside_the_graph_is_accepted(folder: Path, place: str) -> None:
    path = write(folder, "weights", place, offset="0", length="16")
    assert refuse_external_data(path, folder) == {"weights"}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/passwd", "a/../../secret", "./weights", "..", ".", "", "..\\secret", "C:secret", "missing"]
)
def test_any_other_place_is_refused_wherever_the_tensor_hides(folder: Path, place: str, location: str) -> None:
    with pytest.raises(ModelRefused, match="hidden"):
        refuse_external_data(write(folder, location, place), folder)


@pytest.mark.parametrize("kind", ["symlink", "hard-link", "folder"])
def test_a_name_that_is_no_plain_file_is_refused(folder: Path, kind: str) -> None:
    target = folder / "odd"
    if kind == "symlink":
        target.symlink_to("../secret")
    elif kind == "hard-link":
        target.hardlink_to(folder.parent / "secret")
    else:
        target.mkdir()
    with pytest.raises(ModelRefused, match="odd"):
        refuse_external_data(write(folder, "odd"), folder)


@pytest.mark.parametrize(
    "keys", [{"offset": "8", "length": "16"}, {"offset": "-1"}, {"length": "x"}, {"offset": "1" * 30}, {"surprise": "1"}]
)
def test_bytes_outside_the_file_and_unknown_keys_are_refused(folder: Path, keys: dict[str, str]) -> None:
    with pytest.raises(ModelRefused):
        refuse_external_data(write(folder, "weights", **keys), folder)


def test_a_location_said_twice_is_refused(folder: Path) -> None:
    import onnx

    model = onnx.ModelProto.FromString(external_onnx("weights"))
    model.graph.initializer[0].external_data.add(key="location", value="../secret")
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="one location"):
        refuse_external_data(folder / "model.onnx", folder)


def test_a_dtype_that_nobody_can_feed_is_refused(folder: Path) -> None:
    import onnx

    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.STRING, ["n"])
    model = onnx.ModelProto(graph=onnx.GraphProto(input=[value]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelRefused, match="dtype"):
        graph_tensors(folder / "model.onnx")
