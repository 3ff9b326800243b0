"""The Open Inference Protocol, asked by the real client of Triton, and by hand where no client would ask so."""

from __future__ import annotations

import json

import numpy as np
import pytest
from served import D, bits, mixed_frame
from table_cases import context_frame, frame

triton = pytest.importorskip("tritonclient.http", reason="needs tritonclient[http]")

InferenceServerException = pytest.importorskip("tritonclient.utils").InferenceServerException

DTYPES = {"BYTES": object, "BOOL": bool, "INT64": np.int64, "FP64": np.float64}


@pytest.fixture
def client(server):
    found = triton.InferenceServerClient(f"127.0.0.1:{server.port}")
    yield found
    found.close()


def tensor(name, values, datatype, binary=True):
    found = triton.InferInput(name, list(values.shape), datatype)
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def inputs(client, name, X, binary=True, **context):
    """Return the columns of a frame as the metadata of a model wants them."""
    columns = {column: X[column] for column in X} | context
    return [
        tensor(each["name"], columns[each["name"]].to_numpy().astype(DTYPES[each["datatype"]]), each["datatype"], binary)
        for each in client.get_model_metadata(name)["inputs"]
    ]


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("mixed")
    assert client.is_model_ready("mixed", "1")
    assert not client.is_model_ready("mixed", "2")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    found = client.get_model_metadata("mixed", "1")
    assert [each["datatype"] for each in found["inputs"]] == ["BYTES", "BYTES", "BOOL", "INT64", "FP64"]
    assert [each["name"] for each in found["outputs"]] == ["log_p", "std"]
    assert client.get_model_metadata("bits")["inputs"] == [{"name": "rows", "datatype": "UINT8", "shape": [-1, D]}]


@pytest.mark.parametrize("binary", [True, False])
def test_tables(client, models, binary):
    X = mixed_frame(50, 8)
    outputs = [triton.InferRequestedOutput("log_p", binary_data=binary)]
    found = client.infer("mixed", inputs(client, "mixed", X, binary), outputs=outputs, request_id="a request")
    np.testing.assert_array_equal(found.as_numpy("log_p"), models["mixed"].score_samples(X))
    assert found.as_numpy("std") is None
    assert found.get_response()["id"] == "a request"
    assert client.infer("mixed", inputs(client, "mixed", X)).as_numpy("std").tolist() == [0.0] * 50


def test_tables_with_a_context(client, models):
    X, given = frame(7, 2), context_frame(7, 3)
    columns = {f"context.{label}": given[label] for label in given}
    found = client.infer("given", inputs(client, "given", X, **columns))
    np.testing.assert_array_equal(found.as_numpy("log_p"), models["given"].score_samples(X, context=given))


@pytest.mark.parametrize(
    ("dtype", "datatype"),
    [("u1", "UINT8"), ("?", "BOOL"), ("i1", "INT8"), ("<i8", "INT64"), ("<f2", "FP16"), ("<f4", "FP32"), ("<u4", "UINT32")],
)
def test_bits_of_any_datatype(client, models, dtype, datatype):
    X = bits(33)
    found = client.infer("bits", [tensor("rows", X.astype(dtype), datatype)], model_version="1")
    np.testing.assert_array_equal(found.as_numpy("log_p"), models["bits"].score_samples(X))


def test_what_is_missing_is_nan_or_null(server, client, models):
    X = bits(5).astype(np.float32)
    X[:, 2] = np.nan
    found = client.infer("masks", [tensor("rows", X, "FP32")]).as_numpy("log_p")
    np.testing.assert_array_equal(found, models["masks"].log_marginal(X))
    listed = [[None if x != x else x for x in row] for row in X.tolist()]
    by_hand = infer(server, "masks", {"inputs": [{"name": "rows", "shape": [5, D], "datatype": "FP32", "data": listed}]})
    assert by_hand.json["outputs"][0]["data"] == found.tolist()
    table = mixed_frame(3, 1).assign(sex=None)
    data = {"age": "INT64", "income": "FP64", "flag": "BOOL", "sex": "BYTES", "a town": "BYTES"}
    columns = [{"name": c, "shape": [3, 1], "datatype": kind, "data": table[c].tolist()} for c, kind in data.items()]
    log_p = infer(server, "mixed", {"inputs": columns}).json["outputs"][0]["data"]
    np.testing.assert_array_equal(log_p, models["mixed"].log_marginal(table))


def test_options_are_parameters(client, models):
    X = bits(6).astype(np.float64)
    X[:, 1:5] = np.nan
    found = client.infer("masks", [tensor("rows", X, "FP64")], parameters={"n_members": 2, "random_state": 5})
    np.testing.assert_array_equal(found.as_numpy("log_p"), models["masks"].log_marginal(X, n_members=2, random_state=5))


def test_refusals_reach_the_client(client):
    for rows, match in [
        (np.full((2, D), 3, np.uint8), "only 0 and 1, got 3"),
        (np.zeros((2, 3), np.uint8), "expecting 12 features"),
    ]:
        with pytest.raises(InferenceServerException) as caught:
            client.infer("bits", [tensor("rows", rows, "UINT8")])
        assert match in caught.value.message()
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nobody", [tensor("rows", bits(1), "UINT8")])
    assert "there is no model 'nobody'" in caught.value.message()


def infer(server, name, head, tail=b"", **headers):
    content = json.dumps(head).encode() if isinstance(head, dict) else head
    if tail and not headers:
        headers = {"Inference_Header_Content_Length": str(len(content))}
    return server.ask(f"/v2/models/{name}/infer", content + tail, **headers)


def rows(**changed):
    given = {"name": "rows", "shape": [1, D], "datatype": "UINT8", "data": [0] * D} | changed
    return {"inputs": [{name: value for name, value in given.items() if value is not ...}]}


def binary(size, **changed):
    return rows(data=..., parameters={"binary_data_size": size}, **changed)


TEXT = {"name": "sex", "shape": [2], "datatype": "BYTES"}
WRONG = [
    (rows(shape=[1, 5]), b"", "5 values of UINT8, got 12"),
    (rows(shape=[]), b"", "one to four whole numbers"),
    (rows(shape=[-1, D]), b"", "one to four whole numbers"),
    (rows(shape=[10**30, D]), b"", "one to four whole numbers"),
    (rows(shape=[2**31 - 1, 2**31 - 1]), b"", "values of UINT8, got 12"),
    (rows(shape=12), b"", "shape of an input must be of type list"),
    (rows(datatype="UINT9"), b"", "datatype must be BYTES, BOOL"),
    (rows(datatype="FP32", data=["0"] * D), b"", "12 values of FP32, got others"),
    (rows(data=[256] * D), b"", "from 0 to 255, got others"),
    (rows(data=[0.0] * D), b"", "12 values of UINT8, got others"),
    (rows(data=[None] * D), b"", "A missing entry is null, in a tensor of floats"),
    (rows(datatype="FP64", data=[10**400] * D), b"", "an int that is no float"),
    (rows(datatype="BOOL"), b"", "12 values of BOOL, got others"),
    (rows(data=[[0] * 11, [0]]), b"", "values of UINT8, got 2"),
    (rows(data=[[0] * 11, 0]), b"", "values of UINT8"),
    (rows(data={"a": 1}), b"", "data of an input must be of type list"),
    (rows(name="row"), b"", "inputs must be one, 'rows'"),
    (rows(name=3), b"", "name of an input must be of type str"),
    (rows(name=...), b"", "an input must have 'name'"),
    (rows(more=1), b"", "'more', which is not known"),
    (rows(parameters={"shared_memory_region": "a"}), b"", "'shared_memory_region', which is not known"),
    (rows() | {"outputs": [{"name": "p"}]}, b"", "outputs may be log_p, std"),
    (rows() | {"outputs": [{"name": "std"}, {"name": "std"}]}, b"", "different names"),
    (rows() | {"outputs": [{"name": "std", "parameters": {"classification": 3}}]}, b"", "'classification', which is not"),
    (rows() | {"parameters": {"n_walks": "3"}}, b"", "n_walks of parameters of the body must be of type int"),
    (rows() | {"parameters": {"random_state": -3}}, b"", "random_state must be an int >= 0"),
    (rows() | {"parameters": {"sequence_id": 3}}, b"", "'sequence_id', which is not known"),
    (rows() | {"id": 3}, b"", "id of the body must be of type str"),
    ({"inputs": rows()["inputs"] * 2}, b"", "different names, got 'rows' twice"),
    ({"inputs": []}, b"", "inputs must be one"),
    ({}, b"", "must have 'inputs'"),
    (b"[]", b"", "the body must be an object"),
    (b'{"inputs": [], "inputs": []}', b"", "stands twice"),
    (binary(D), b"\0" * (D - 1), "must have 12 bytes, but the body has 11"),
    (binary(D), b"\0" * (D + 1), "got 1 bytes beyond"),
    (binary(D - 1), b"\0" * (D - 1), "must have 12 bytes, got 11"),
    (binary(-5), b"\0", "must have 12 bytes, got -5"),
    (binary(D, datatype="BOOL"), b"\2" * D, "must have bytes 0 and 1"),
    (binary(4 * D, datatype="FP32"), np.full(D, np.inf, "<f4").tobytes(), "only 0 and 1, got inf"),
    ({"inputs": [TEXT | {"parameters": {"binary_data_size": 6}}]}, b"\1\0\0\0a\0", "each behind its length"),
    ({"inputs": [TEXT | {"parameters": {"binary_data_size": 5}}]}, b"\1\0\0\0a", "2 texts"),
    ({"inputs": [TEXT | {"parameters": {"binary_data_size": 10}}]}, b"\1\0\0\0\xff\1\0\0\0a", "texts in UTF-8"),
    ({"inputs": [TEXT | {"parameters": {"binary_data_size": 8}}]}, b"\xff\xff\xff\xff\0\0\0\0", "2 texts"),
    ({"inputs": [TEXT | {"data": ["a", 3]}]}, b"", "texts or null, got others"),
    ({"inputs": [TEXT | {"shape": [1, 2], "data": ["a", "b"]}]}, b"", r"shape [n] or [n, 1]"),
]


@pytest.mark.parametrize(("head", "tail", "match"), WRONG)
def test_what_is_not_of_the_protocol_is_refused(server, head, tail, match):
    name = "mixed" if b"sex" in json.dumps(head, default=repr).encode() else "bits"
    found = infer(server, name, head, tail)
    assert found.status in (400, 422), found.body
    assert match in found.error


@pytest.mark.parametrize("length", ["-1", "1e3", "999999", "", "0x10", "\u0661", "5"])
def test_a_wrong_length_of_the_json_is_refused(server, length):
    found = infer(server, "bits", rows(), Inference_Header_Content_Length=length.encode().decode("latin-1"))
    assert found.status == 400
    assert found.error


def test_columns_that_are_not_there_are_refused(server):
    given = {"inputs": [TEXT | {"data": ["male", "female"]}, TEXT | {"name": "seks", "data": ["male", "female"]}]}
    found = infer(server, "mixed", given)
    assert found.status == 422
    assert "it lacks 'a town', 'flag', 'age', 'income'; it has beside them 'seks'" in found.error
