"""Descriptions of bundles, ONNX graphs and checkpoints; a bundle is described without torch or onnx."""

import collections
import dataclasses
import os
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from idol_runtime.bundle.bundle import MANIFEST, Bundle, Certificate, TensorInfo
from idol_runtime.bundle.certificates import GraphInfo, PrecisionCertificate
from idol_runtime.errors import BundleError, ConfigError
from idol_runtime.files import file_digest
from idol_runtime.optional import import_optional

__all__ = ["describe"]


def describe(path: str | Path) -> dict[str, object]:
    """Return the properties of a file, ready for JSON.

    Raises:
        ConfigError: there is no such file, or it is of another kind.
        BundleError: the bundle or ONNX file is broken or was changed.
        CheckpointError: the checkpoint is broken.
        MissingDependencyError: torch or onnx is needed and not installed.
    """
    path = Path(path)
    if not os.path.isfile(path):  # unlike Path.is_file, False for a name that no file can have
        raise ConfigError(f"no such file: {path}; check the path")
    if path.suffix == ".idol" or _is_bundle(path):
        described = _describe_bundle(path)
    elif path.suffix == ".onnx":
        described = _describe_onnx(path)
    else:
        described = _describe_checkpoint(path)
    return {**described, "size": f"{path.stat().st_size} bytes", "sha256": file_digest(path)}


def _is_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _describe_bundle(path: Path) -> dict[str, object]:
    with Bundle.open(path) as bundle:
        manifest = bundle.manifest
        certificates, reduced = bundle.certificates.by_graph(), bundle.certificates.precisions
        for graph in (*certificates, *reduced):
            bundle.graph(graph)
        bundle.golden_frame()
    stream = manifest.stream
    return {
        "kind": f"idol bundle, schema {manifest.schema_version}",
        "preset": manifest.preset,
        "note": manifest.note,
        "precision": f"{manifest.precision}, weights stored in {manifest.storage}",
        "classes": f"{len(stream.categories)}: {', '.join(stream.class_names)}",
        "frame size": "x".join(map(str, manifest.frame_size)),
        "network input": "x".join(map(str, manifest.network_size)),
        "padded input": "x".join(map(str, manifest.padded_size)),
        "batch": "dynamic" if manifest.dynamic_batch else "1",
        "association": dataclasses.asdict(stream.association),
        "inputs": _describe_tensors(manifest.inputs),
        "outputs": _describe_tensors(manifest.outputs),
        **{f"{graph} graph": _describe_parity(certificate) for graph, certificate in certificates.items()},
        **{
            f"{graph} graph": _describe_reduced(manifest.precisions[graph], checks)
            for graph, checks in reduced.items()
        },
        **{
            f"{graph} in {certificate.measured_in}": _describe_checks(certificate)
            for graph, checks in reduced.items()
            for certificate in checks
        },
        "weights sha256": manifest.weights_sha256,
        "members": {
            name: f"{member.bytes} bytes, sha256 {member.sha256}" for name, member in manifest.members.items()
        },
        "versions": manifest.versions,
        "created": manifest.created,
    }


def _describe_parity(certificate: Certificate) -> dict[str, str]:
    verified = (
        f"{certificate.source}: {certificate.frames} frames, {certificate.identities} identities, "
        f"{certificate.near_ties} near-ties"
    )
    return {**_describe_stages(certificate), "verified on": verified}


def _describe_reduced(info: GraphInfo, certificates: Sequence[PrecisionCertificate]) -> dict[str, str]:
    described = {"made for": info.made_for}
    if info.recipe is not None:
        described["in integers"] = f"{info.recipe.integer_share:.0%} of the multiplications"
        described["kept in fp32"] = ", ".join(info.recipe.kept) or "nothing"
    if not certificates:
        described["verified"] = "NO, not measured yet; verify it with: idol-deploy certify"
    return described


def _describe_checks(certificate: PrecisionCertificate) -> dict[str, str]:
    agreement, scores, failed = certificate.agreement, certificate.annotation_scores, certificate.failures
    described = {
        "verified": f"NO, failed: {', '.join(failed)}; run refuses it" if failed else "yes",
        "id agreement": f"{agreement.idf1:.2%} with fp32 (allowed {agreement.limit:.2%}) on "
        f"{agreement.instance_frames} instance-frames of {agreement.source}",
    }
    if scores is not None:
        described["AP"] = f"{scores.ap:.1%} (fp32 {scores.ap_fp32:.1%}) on {scores.source}"
        described["IDF1"] = f"{scores.idf1:.1%} (fp32 {scores.idf1_fp32:.1%}) on {scores.source}"
    return {
        **described,
        **_describe_stages(certificate),
        "stages compared on": f"{certificate.frames} frames",
    }


def _describe_stages(certificate: Certificate | PrecisionCertificate) -> dict[str, str]:
    return {s.stage: f"{s.error:.1e} (allowed {s.tolerance:.0e})" for s in certificate.stages}


def _describe_tensors(tensors: Iterable[TensorInfo]) -> dict[str, str]:
    return {tensor.name: f"{tensor.dtype} {list(tensor.shape)}" for tensor in tensors}


def _describe_onnx(path: Path) -> dict[str, object]:
    onnx = import_optional("onnx", "onnx", "export", "reading an ONNX file")
    from idol_export.graph.tracing import describe_io

    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
        inputs, outputs = describe_io(path.read_bytes())
    except (
        Exception
    ) as error:  # onnx raises many kinds of error, also for a type of tensors that it does not know
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(f"invalid ONNX file: {path} ({reason}); export it again") from error
    operators = collections.Counter(
        f"{node.domain}::{node.op_type}" if node.domain else node.op_type for node in model.graph.node
    )
    return {
        "kind": "ONNX graph",
        "opset": {opset.domain or "ai.onnx": opset.version for opset in model.opset_import},
        "inputs": _describe_tensors(inputs),
        "outputs": _describe_tensors(outputs),
        "nodes": len(model.graph.node),
        "operators": dict(operators.most_common()),
    }


def _describe_checkpoint(path: Path) -> dict[str, object]:
    import_optional("torch", "torch", "export", "reading a checkpoint")
    from idol_deploy.weights.checkpoint import inspect_checkpoint

    info = inspect_checkpoint(path)
    return {
        "kind": f"checkpoint ({info.kind})",
        "presets": list(info.presets) or "none fits",
        **({"backbone": f"{info.imagenet} of ImageNet, for train --weights"} if info.imagenet else {}),
        "classes": info.classes,
        "tensors": info.tensors,
        "parameters": info.parameters,
        "weights sha256": info.weights,
        "metadata": dict(info.metadata),
    }
