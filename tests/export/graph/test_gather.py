"""The gather forms of the deformable attention against the numpy reference implementation."""

import numpy as np
import pytest

from idol_plugins.cases import Case, make_cases

onnx = pytest.importorskip("onnx", reason="export needs onnx")
torch = pytest.importorskip("torch", reason="export needs torch")

from idol_deploy.model.deform_attn import AttentionCore  # noqa: E402 - imported after torch
from idol_export.graph import tracing  # noqa: E402
from idol_export.graph.gather import gather_and_multiply, gather_and_sum  # noqa: E402

FORMS = pytest.mark.parametrize("core", [gather_and_multiply, gather_and_sum])
CASES = {case.name: case for case in make_cases() if case.dtype == case.merged_dtype == "float32"}


def _tensors(case: Case, dtype: type[np.floating]) -> "list[torch.Tensor]":
    return [torch.from_numpy(array.astype(dtype)) for array in (case.value, case.merged, case.reference)]


@FORMS
@pytest.mark.parametrize("name", CASES)
def test_equals_the_reference_in_float64(core: AttentionCore, name: str) -> None:
    """Cell edges, borders, locations far outside, infinite and NaN ones, and levels of one cell."""
    case = CASES[name]
    value, merged, reference = _tensors(case, np.float64)
    found = core(value, case.shapes, merged, reference).numpy()
    expected = case.expected
    if name == "NaN values":  # a NaN cell also counts where its weight is zero
        assert np.isnan(found[np.isnan(expected)]).all()
        expected = np.where(np.isnan(found), np.nan, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@FORMS
def test_nan_and_infinite_locations_stay_in_range_in_onnx_runtime(core: AttentionCore) -> None:
    """A NaN makes any int32, depending on the processor; an index that is out of range would end the run."""
    from idol_runtime.backends.onnxruntime import import_onnxruntime

    class Layer(torch.nn.Module):
        def forward(
            self, value: "torch.Tensor", merged: "torch.Tensor", reference: "torch.Tensor"
        ) -> "torch.Tensor":
            return core(value, case.shapes, merged, reference)

    case = CASES["NaN and infinite locations"]
    inputs = dict(zip(("value", "merged", "reference"), _tensors(case, np.float32), strict=True))
    with torch.no_grad(), tracing._quiet():
        program = torch.onnx.export(
            Layer().eval(), kwargs=inputs, dynamo=True, opset_version=18, verbose=False
        )
    session = import_onnxruntime().InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    np.testing.assert_allclose(found, case.expected, rtol=0, atol=1e-4)


@FORMS
def test_rows_beyond_the_exact_integers_of_fp32(core: AttentionCore) -> None:
    """Odd rows above 2^24 do not exist in fp32; the last cell of the last image has the largest index."""
    side = 2101
    value = torch.zeros(2, side * side, 2, 1)
    assert value.numel() > 2**24
    value[1, -2:, 1, 0] = torch.tensor([3.0, 5.0])
    merged = torch.zeros(2, 1, 6)
    last = torch.tensor([(side - 0.5) / side] * 2)
    found = core(value, ((side, side),), merged, last.reshape(1, 1, 1, 2))
    assert found[:, 0].tolist() == [[0, 0], [0, pytest.approx(5, abs=2e-3)]]
