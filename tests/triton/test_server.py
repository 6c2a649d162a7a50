"""The repository on a real Triton server, whose ONNX models are stood in for.

`nvidia-pytriton` has the real server with the Python backend alone. The two graphs are therefore run by ONNX Runtime
in that backend, in models of the same configuration; the tokenizer and the ensemble are as they were written. It gets
an environment of its own, as it wants an older numpy. Needs the network.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from command_line import fail, succeed
from places import ROOT, SHIPPED_BUNDLE

pytestmark = pytest.mark.slow

_STAND_IN = """
import json
from pathlib import Path
import numpy as np, onnxruntime
import triton_python_backend_utils as triton

class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        (graph,) = (Path(args["model_repository"]) / args["model_version"]).glob("*.onnx")
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.inputs, self.outputs = ([one["name"] for one in config[kind]] for kind in ("input", "output"))

    def execute(self, requests):
        given = [{n: triton.get_input_tensor_by_name(r, n).as_numpy() for n in self.inputs} for r in requests]
        rows = np.cumsum([len(one[self.inputs[0]]) for one in given])[:-1]
        together = {name: np.concatenate([one[name] for one in given]) for name in self.inputs}
        (found,) = self.session.run(self.outputs, together)
        return [triton.InferenceResponse([triton.Tensor(self.outputs[0], part)]) for part in np.split(found, rows)]
"""
_REPLAY = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np
from tritonclient.http import InferenceServerClient, InferInput

bundle, address = Path(sys.argv[1]), sys.argv[2]
golden = np.load(bundle / "golden" / "vectors.npz")
captions = json.loads((bundle / "golden" / "golden.json").read_text())["captions"]

def ask(model, name, array, kind, output):
    given = InferInput(name, array.shape, kind)
    given.set_data_from_numpy(array)
    return InferenceServerClient(address).infer(model, [given]).as_numpy(output)

def image(crops):
    return ask("tbps_image", "pixels", crops, "UINT8", "image_embedding")

def text(sentences):
    array = np.array([[sentence.encode()] for sentence in sentences], dtype=object)
    return ask("tbps_text", "text", array, "BYTES", "text_embedding")

assert np.abs(image(golden["pixels"]) - golden["image_embeddings"]).max() < 1e-5
assert np.abs(text(captions) - golden["text_embeddings"]).max() < 1e-5
with ThreadPoolExecutor(8) as pool:
    alone = list(pool.map(lambda n: image(golden["pixels"][n % 4 : n % 4 + 1])[0], range(40)))
assert np.abs(np.array(alone) - np.tile(golden["image_embeddings"], (10, 1))).max() < 1e-5
models = InferenceServerClient(address).get_inference_statistics()["model_stats"]
print(*(f"{one['name']} {one['inference_count']} {one['execution_count']}" for one in models), sep="\\n")
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the server, its client, and this project without torch."""
    folder = tmp_path_factory.mktemp("triton") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    copy = folder.parent / "source"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, copy], check=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "-q"]
    done = subprocess.run([*pip, "nvidia-pytriton==0.7.0", f"{copy}[cpu]"], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"the server cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="module")
def address(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the shipped bundle's repository."""
    folder = tmp_path_factory.mktemp("server")
    repository = folder / "repository"
    succeed("deploy", "triton", SHIPPED_BUNDLE, "-o", repository, "--python-env", environment)
    for model in ("tbps_image", "tbps_text_graph"):
        stand_in(repository / model, environment)
    (package,) = environment.glob("lib/python*/site-packages")
    server = package / "pytriton" / "tritonserver"
    shutil.copytree(server / "backends", folder / "backends")
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(
        server / "python_backend_stubs" / version / "triton_python_backend_stub", folder / "backends" / "python"
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(server / "bin" / "tritonserver"), f"--model-repository={repository}", f"--http-port={port}"]
    command += [f"--backend-directory={folder / 'backends'}", "--http-address=127.0.0.1"]
    command += ["--allow-grpc=false", "--allow-metrics=false"]
    env = {"LD_LIBRARY_PATH": str(package / "nvidia_pytriton.libs"), "PATH": "/usr/bin:/bin"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_until_ready(process, port, folder / "log")
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()  # it does not end by SIGTERM alone
        process.wait()


def stand_in(model: Path, environment: Path) -> None:
    """Let the Python backend run a model's graph, in place of the backend that the server does not have."""
    config = (model / "config.pbtxt").read_text(encoding="utf-8")
    config, changed = re.subn(r'backend: "onnxruntime"', 'backend: "python"', config)
    config, dropped = re.subn(r"default_model_filename: .*\n", "", config)
    assert (changed, dropped) == (1, 1)
    config += f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{environment}" }} }}\n'
    (model / "config.pbtxt").write_text(config, encoding="utf-8")
    (model / "1" / "model.py").write_text(_STAND_IN, encoding="utf-8")


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends = time.monotonic() + 120
    while time.monotonic() < ends and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return
        except (OSError, URLError):
            time.sleep(0.5)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def test_the_golden_vectors_come_back_through_tritonclient(environment: Path, address: str) -> None:
    command = [str(environment / "bin" / "python"), "-c", _REPLAY, str(SHIPPED_BUNDLE), address]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = {name: (int(items), int(runs)) for name, items, runs in map(str.split, done.stdout.splitlines())}
    assert set(counts) == {"tbps_image", "tbps_text", "tbps_text_graph", "tbps_tokenizer"}
    assert counts["tbps_image"][0] == 44 > counts["tbps_image"][1], "requests that came together ran together"


def test_the_doctor_finds_it_well(address: str) -> None:
    done = succeed("doctor", SHIPPED_BUNDLE, "--triton", f"http://{address}")
    assert done.stdout.count(": golden cosine 1.0000000 at least, fp32, of the bundle's fingerprint") == 2
    unknown = fail(1, "doctor", SHIPPED_BUNDLE, "--triton", f"http://{address}", "--triton-name", "other")
    assert "PROBLEM  triton image: The server" in unknown.stdout


def test_the_configurations_are_triton_s_own(environment: Path, tmp_path: Path) -> None:
    """Triton's protobuf refuses a field that it does not know."""
    succeed("deploy", "triton", SHIPPED_BUNDLE, "-o", tmp_path / "repository")
    code = (
        "import sys; from google.protobuf import text_format; from tritonclient.grpc import model_config_pb2 as m\n"
        "for file in sys.argv[1:]: text_format.Parse(open(file).read(), m.ModelConfig())"
    )
    configs = sorted((tmp_path / "repository").glob("*/config.pbtxt"))
    done = subprocess.run(
        [environment / "bin" / "python", "-c", code, *configs], capture_output=True, text=True, check=False
    )
    assert len(configs) == 4 and done.returncode == 0, done.stderr
