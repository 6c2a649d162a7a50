"""Makes the bundle that the other sections run, unless one is given."""

from __future__ import annotations

from collections.abc import Iterator

from tbps_infer.benchmarks.device_sections.context import Fact, SectionContext, checked, skipped
from tbps_infer.bundle import Bundle, is_bundle

__all__ = ["facts"]


def facts(context: SectionContext) -> Iterator[Fact]:
    """Export the checkpoint with FP16 graphs, or open the bundle that is given."""
    if not is_bundle(context.bundle):
        from tbps_infer.export.bundle import export_bundle
        from tbps_infer.export.options import ExportOptions

        export_bundle(context.checkpoint, context.bundle, ExportOptions(precisions=("fp16",)))
    bundle = Bundle.open(context.bundle)
    yield checked("the bundle opens", True, fingerprint=bundle.model.fingerprint)
    if "image.fp16.onnx" not in bundle.files:
        yield skipped("the bundle has no FP16 graphs")
