"""Probes: written and read again, asked in the protocol's form, and compared."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converters.errors import EntryBroken
from converters.probes import Probe, ProbeTensor, differences, infer_answer, infer_request, read_probes, texts, write_probes

BOUND = 1e-4


def floats(*values: float, name: str = "scores", dtype: str = "FP32") -> ProbeTensor:
    code = {"FP16": "e", "FP32": "f", "FP64": "d"}[dtype]
    return ProbeTensor(name, dtype, (len(values),), struct.pack(f"<{len(values)}{code}", *values))


def worst(expected: ProbeTensor, found: ProbeTensor | None) -> float:
    probe = Probe((), (expected,), BOUND)
    (told,) = differences(probe, {} if found is None else {found.name: found})
    assert told.is_within is (told.relative <= BOUND) and told.output == expected.name
    return told.relative


@given(st.lists(st.text() | st.binary(), max_size=5), st.lists(st.floats(width=32), min_size=1, max_size=5))
def test_probes_are_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, items: list[str | bytes], values: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("entry")
    probes = (Probe((texts("text_input", items),), (floats(*values),), BOUND),)
    write_probes(folder, probes)
    first = (folder / "probes.json").read_bytes()
    assert read_probes(folder) == probes
    write_probes(folder, read_probes(folder))
    assert (folder / "probes.json").read_bytes() == first


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": "another", "probes": []}', '{"format": "posthuman/probes/v1", "probes": [{}]}']
)
def test_a_file_that_is_not_one_of_ours_is_broken(tmp_path: Path, text: str) -> None:
    (tmp_path / "probes.json").write_text(text)
    with pytest.raises(EntryBroken, match=r"probes\.json"):
        read_probes(tmp_path)


def test_an_entry_without_probes_has_none(tmp_path: Path) -> None:
    assert read_probes(tmp_path) == ()


@pytest.mark.parametrize("dtype", ["FP16", "FP32", "FP64"])
def test_a_difference_is_a_part_of_the_largest_expected_value(dtype: str) -> None:
    found = worst(floats(2.0, -8.0, dtype=dtype), floats(2.0, -8.5, dtype=dtype))
    assert found == 0.0625
    assert worst(floats(0.0, 0.0, dtype=dtype), floats(0.0, 0.5, dtype=dtype)) == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("expected", "found", "is_within"),
    [
        ([1.0, -math.inf], [1.0, -math.inf], True),
        ([1.0, -math.inf], [1.0, math.inf], False),
        ([1.0, math.inf], [1.0, 3e38], False),
        ([1.0, 2.0], [1.0, math.inf], False),
        ([1.0, 2.0], [math.nan, 2.0], False),
        ([math.nan, 2.0], [math.nan, 2.0], False),
        ([0.5, math.nan], [0.5, 2.0], False),
    ],
)
def test_an_infinity_must_be_the_same_and_no_number_equals_nan(expected: list[float], found: list[float], is_within: bool) -> None:
    (told,) = differences(Probe((), (floats(*expected),), BOUND), {"scores": floats(*found)})
    assert told.is_within is is_within


@pytest.mark.parametrize(
    "found", [None, floats(1.0), floats(1.0, 2.0, dtype="FP64"), ProbeTensor("scores", "FP32", (2, 1), bytes(8))]
)
def test_an_answer_of_another_form_is_infinitely_far(found: ProbeTensor | None) -> None:
    assert worst(floats(1.0, 2.0), found) == math.inf


def test_texts_and_whole_numbers_must_be_equal() -> None:
    assert worst(texts("label", ["yes"]), texts("label", ["yes"])) == 0.0
    assert worst(texts("label", ["yes"]), texts("label", ["Yes"])) == math.inf
    one, other = (ProbeTensor("token_ids", "INT32", (1,), struct.pack("<i", value)) for value in (7, 8))
    assert (worst(one, one), worst(one, other)) == (0.0, math.inf)


def test_a_request_asks_for_the_expected_outputs_alone_and_carries_every_byte() -> None:
    probe = Probe((texts("text_input", ["é", ""]), floats(1.5, name="temperature")), (floats(1.0),), BOUND)
    body, length = infer_request(probe)
    header = json.loads(body[:length])
    assert [output["name"] for output in header["outputs"]] == ["scores"]
    assert [tensor["shape"] for tensor in header["inputs"]] == [[2], [1]]
    assert body[length:] == b"\2\0\0\0\xc3\xa9\0\0\0\0" + struct.pack("<f", 1.5)


def test_an_answers_tensors_are_found_by_their_lengths() -> None:
    tensors = (floats(1.0, 2.0), texts("label", ["yes", "no"]))
    header = json.dumps(
        {
            "outputs": [
                {
                    "name": each.name,
                    "datatype": each.dtype,
                    "shape": list(each.shape),
                    "parameters": {"binary_data_size": len(each.raw)},
                }
                for each in tensors
            ]
        }
    ).encode()
    assert infer_answer(header + b"".join(each.raw for each in tensors), len(header)) == {each.name: each for each in tensors}
