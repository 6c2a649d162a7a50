"""Write the trained detector as ONNX with its file: `python export.py weights.pt -o folder`.

It ends by running the graph over streets that were not learned from. Needs the extras [export] and [cpu].
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import onnx
import onnxruntime
import torch
from measure import measure
from network import Detector
from scenes import INPUT_SIZE
from train import draw

NAME = "drawn-people"
_MEANING = "Finds the people that `tbps data scenes` draws, and nothing else: it has never seen a photograph."
_FILE = {
    "model": f"{NAME}.onnx",
    "decoder": "boxes-scores",
    "input_size": list(INPUT_SIZE),
    "resize": "letterbox",
    "layout": "nhwc",
    "score_threshold": 0.2,
    "track_threshold": 0.4,
    "iou_threshold": 0.5,
}


def export(weights: Path, folder: Path) -> Path:
    """Write ``drawn-people.onnx`` (uint8 [batch, height, width, 3] to boxes and scores) and ``detector.json``."""
    network = Detector()
    network.load_state_dict(torch.load(weights, weights_only=True))
    program = torch.onnx.export(
        network.eval(),
        (torch.zeros((2, *INPUT_SIZE, 3), dtype=torch.uint8),),
        dynamo=True,
        input_names=["pixels"],
        output_names=["boxes", "scores"],
        dynamic_shapes=[{0: torch.export.Dim("batch")}],
        verbose=False,
    )
    folder.mkdir(parents=True, exist_ok=True)
    graph = folder / _FILE["model"]
    program.save(graph, external_data=False)
    model = onnx.load(graph)
    model.doc_string = _MEANING
    for node in model.graph.node:  # where in the source each came from: as large as a tenth of the weights
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(model, graph)
    (folder / "detector.json").write_text(json.dumps(_FILE, indent=2) + "\n", encoding="utf-8")
    return graph


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the trained detector as ONNX with its file.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    graph = export(args.weights, args.output)
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (unseen,) = draw(range(0), 0.0)
    print(f"{graph}: {graph.stat().st_size / 1e6:.2f} MB")
    print(measure(lambda frames: session.run(["boxes", "scores"], {"pixels": frames}), unseen))


if __name__ == "__main__":
    main()
