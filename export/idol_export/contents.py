"""The contents of a bundle that is written graph by graph: every write leaves a complete, valid bundle."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from idol_runtime.bundle.bundle import (
    CERTIFICATES,
    GRAPHS,
    SCHEMA_VERSION,
    Bundle,
    Certificates,
    GraphName,
    Manifest,
    write_bundle,
)
from idol_runtime.bundle.certificates import GraphInfo, PrecisionCertificate, ReducedName
from idol_runtime.files import replacing
from idol_runtime.pipeline import Pipeline

__all__ = ["BundleContents"]


@dataclass(frozen=True)
class BundleContents:
    """The contents of a bundle.

    Attributes:
        manifest: manifest; its `members` are those of the last write.
        certificates: certificates of the graphs.
        members: contents of the other files by name.
    """

    manifest: Manifest
    certificates: Certificates
    members: Mapping[str, bytes]

    @classmethod
    def read(cls, path: str | Path) -> "BundleContents":
        """Read a bundle, also of an older schema, which `write` then upgrades.

        Raises:
            BundleError: see `Bundle.open`.
        """
        with Bundle.open(path) as bundle:
            manifest = msgspec.structs.replace(bundle.manifest, schema_version=SCHEMA_VERSION)
            members = {name: bundle.member(name) for name in manifest.members if name != CERTIFICATES}
            return cls(manifest, bundle.certificates, members)

    def with_graph(
        self, name: ReducedName, part: bytes, info: GraphInfo, certificate: PrecisionCertificate
    ) -> "BundleContents":
        """Return the contents with a reduced-precision graph, which replaces one of the same name.

        Args:
            name: name of the graph.
            part: its member, without the shared weights if `info` says so.
            info: its description.
            certificate: its first certificate.
        """
        precisions = {**self.manifest.precisions, name: info}
        changed = replace(
            self,
            manifest=msgspec.structs.replace(self.manifest, precisions=precisions),
            members={**self.members, GRAPHS[name]: part},
        )
        return changed._with_certificates(name, (certificate,))

    def with_certificate(self, name: ReducedName, certificate: PrecisionCertificate) -> "BundleContents":
        """Return the contents with a certificate, which replaces one of the same engine and processor."""
        others = (c for c in self.certificates.precisions[name] if c.measured_in != certificate.measured_in)
        return self._with_certificates(name, (*others, certificate))

    def _with_certificates(
        self, name: ReducedName, certificates: tuple[PrecisionCertificate, ...]
    ) -> "BundleContents":
        precisions = {**self.certificates.precisions, name: certificates}
        return replace(self, certificates=msgspec.structs.replace(self.certificates, precisions=precisions))

    def write(self, path: str | Path, graphs: Iterable[GraphName]) -> "BundleContents":
        """Write the bundle atomically after a replay of its golden frame on these graphs.

        Raises:
            OutputError: the path cannot be written.
            BackendError: the outputs of a graph differ from PyTorch's.
        """
        members = {**self.members, CERTIFICATES: msgspec.json.encode(self.certificates)}
        with replacing(path) as temporary:
            manifest = write_bundle(temporary, self.manifest, members)
            for name in graphs:
                Pipeline.open(temporary, graph=name).close()
        return replace(self, manifest=manifest)
