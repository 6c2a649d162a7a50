"""Opening a bundle and a checkpoint, and what comes out of them, against numpy and the model itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tbps_infer.bundle import Bundle, file_facts
from tbps_infer.encoder import Encoder
from tbps_infer.errors import BackendError, BundleError, UsageError
from tbps_infer.images import to_crop
from tbps_infer.layout import VectorLayout
from tbps_infer.runners import RunOptions
from tbps_infer.runners.fake import fake_facts
from tbps_infer.text import pad_ids
from tbps_infer.tokenizer_files import train_wordpiece

CAPTIONS = ("a woman in a red coat", "a man", "a tall man with a grey backpack, black trousers and a hat")
FACTS = fake_facts()
DIM = FACTS.layout.dim


def projection(branch: str) -> NDArray[np.float32]:
    rows = 12 * 4 * 3 if branch == "image" else 200
    return np.random.default_rng(len(branch)).normal(size=(rows, DIM)).astype(np.float32)


def normalised(raw: NDArray[Any], layout: VectorLayout) -> NDArray[Any]:
    pieces = [raw[:, piece] for piece in layout.slices.values()]
    weights = [segment.weight for segment in layout.segments]
    scaled = [p / np.linalg.norm(p, axis=1, keepdims=True) * w**0.5 for p, w in zip(pieces, weights, strict=True)]
    return np.concatenate(scaled, axis=1)


def write_graph(folder: Path, branch: str) -> None:
    """A random projection of the pixels, or the mean of random token vectors, each segment normalised."""
    from onnx import TensorProto, helper, numpy_helper, save

    node = helper.make_node
    segments = FACTS.layout.segments
    if branch == "image":
        inputs = [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["batch", 12, 4, 3])]
        nodes = [
            node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
            node("Flatten", ["floats"], ["flat"]),
            node("MatMul", ["flat", "weight"], ["raw"]),
        ]
    else:
        names = ("input_ids", "attention_mask")
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["batch", "length"]) for name in names]
        nodes = [
            node("Gather", ["weight", "input_ids"], ["tokens"]),
            node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["mask", "two"], ["column"]),
            node("Mul", ["tokens", "column"], ["kept"]),
            node("ReduceSum", ["kept", "one"], ["raw"], keepdims=0),
        ]
    constants = {
        "weight": projection(branch),
        "one": np.array([1]),
        "two": np.array([2]),
        "sizes": np.array([segment.size for segment in segments]),
    }
    nodes.append(node("Split", ["raw", "sizes"], [f"part{i}" for i in range(len(segments))], axis=1))
    for i, segment in enumerate(segments):
        constants[f"root{i}"] = np.array(segment.weight**0.5, np.float32)
        nodes += [
            node("ReduceL2", [f"part{i}", "one"], [f"norm{i}"], keepdims=1),
            node("Div", [f"part{i}", f"norm{i}"], [f"unit{i}"]),
            node("Mul", [f"unit{i}", f"root{i}"], [f"scaled{i}"]),
        ]
    nodes.append(node("Concat", [f"scaled{i}" for i in range(len(segments))], [f"{branch}_embedding"], axis=1))
    output = helper.make_tensor_value_info(f"{branch}_embedding", TensorProto.FLOAT, ["batch", DIM])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, branch, inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    save(model, folder / f"{branch}.onnx")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    folder = tmp_path / "bundle"
    folder.mkdir()
    train_wordpiece(CAPTIONS, 200).save(str(folder / "tokenizer.json"))
    for branch in ("image", "text"):
        write_graph(folder, branch)
    files = file_facts(folder)
    model = FACTS.identified("0" * 64, files["tokenizer.json"].sha256)
    Bundle(folder, model, files, 18, {}, {"name": "made up", "sha256": ""}, "2026-01-01T00:00:00Z", {}).write_facts()
    return Bundle.open(folder)


def test_a_bundle_gives_what_numpy_does(bundle: Bundle) -> None:
    with Encoder.open(bundle.path, RunOptions(threads=1), batch_size=2) as encoder:
        assert encoder.facts == bundle.model
        pixels = np.random.default_rng(0).integers(0, 256, (5, 12, 4, 3), dtype=np.uint8)
        expected = normalised(pixels.reshape(5, -1).astype(np.float64) @ projection("image"), FACTS.layout)
        np.testing.assert_allclose(encoder.encode_crops(pixels), expected, atol=1e-5)

        pictures = [Image.fromarray(crop).resize((9, 31)) for crop in pixels]
        crops = np.stack([to_crop(picture, FACTS.preprocessing) for picture in pictures])
        expected = normalised(crops.reshape(5, -1).astype(np.float64) @ projection("image"), FACTS.layout)
        np.testing.assert_allclose(encoder.encode_images(pictures), expected, atol=1e-5)

        rows = train_wordpiece(CAPTIONS, 200).encode_batch(list(CAPTIONS))
        kept = [[*row.ids[: FACTS.max_length - 1], 3] if len(row.ids) > FACTS.max_length else row.ids for row in rows]
        raw = np.stack([projection("text")[ids].astype(np.float64).sum(axis=0) for ids in kept])
        np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), normalised(raw, FACTS.layout), atol=1e-5)


def test_an_altered_graph_or_tokenizer_is_refused_before_it_is_used(bundle: Bundle) -> None:
    graph = bundle.graph_path("text")
    data = bytearray(graph.read_bytes())
    data[-100] ^= 1
    graph.write_bytes(data)
    with Encoder.open(bundle.path) as encoder, pytest.raises(BundleError, match=r"text\.onnx is not the file"):
        encoder.encode_texts(["a man"])
    tokenizer = bundle.tokenizer_path.read_text()
    bundle.tokenizer_path.write_text(tokenizer.replace('"[UNK]"', '"[unk]"', 1))
    with pytest.raises(BundleError, match=r"tokenizer\.json is not the file"):
        Encoder.open(bundle.path)


def test_a_precision_that_the_bundle_does_not_hold_is_refused(bundle: Bundle) -> None:
    with (
        Encoder.open(bundle.path, RunOptions(precision="fp16")) as encoder,
        pytest.raises(BackendError, match="holds no fp16 graph of the text branch"),
    ):
        encoder.encode_texts(["a man"])


def test_a_bundle_is_not_for_torch(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="is a bundle, and the backend torch runs checkpoints"):
        Encoder.open(bundle.path, RunOptions("torch"))
    with pytest.raises(UsageError, match="does not exist"):
        Encoder.open(bundle.path / "nowhere")


def test_a_checkpoint_gives_what_its_model_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from tbps_infer.families import table
    from tbps_infer.reference import checkpoint as module
    from tbps_infer.reference.config import tiny_config
    from tbps_infer.reference.model import PartModel

    torch.manual_seed(1)
    trained = train_wordpiece(CAPTIONS, 200)
    model = PartModel(tiny_config(trained.get_vocab_size())).eval()
    module.save_checkpoint(tmp_path, model, trained.to_str())
    loaded = []
    load = module.load_checkpoint

    def counted(path: Path, key: str | None) -> module.Checkpoint:
        loaded.append(path)
        return load(path, key)

    monkeypatch.setattr(table, "load_checkpoint", counted)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 96, 32, 3), dtype=np.uint8)
    ids, mask = pad_ids([row.ids for row in trained.encode_batch(list(CAPTIONS))], 0)
    with torch.inference_mode():
        images = model.encode_image(torch.from_numpy(pixels)).numpy()
        texts = model.encode_text(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    with Encoder.open(tmp_path, RunOptions("torch"), batch_size=2) as encoder:
        np.testing.assert_allclose(encoder.encode_crops(pixels), images, atol=1e-5)
        np.testing.assert_allclose(encoder.encode_texts(CAPTIONS), texts, atol=1e-5)
    assert loaded == [tmp_path]  # both branches share it
    with pytest.raises(UsageError, match="is a checkpoint, and the backend onnxruntime runs bundles"):
        Encoder.open(tmp_path)
