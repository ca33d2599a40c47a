"""A saved student gives the same outputs after loading, with this package and with timm."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors import SafetensorError

from richkd.config.schema import ModelConfig
from richkd.core.checksums import SUMS
from richkd.core.errors import CheckpointError, DataError, ModelError
from richkd.data.framing import Framing, frame
from richkd.export.student import load_student, save_student
from richkd.models.build import Network, build_network
from tests.data.files import encode
from tests.fixtures import make_teacher, refusal

CLASSES = ("aquarium fish", "Bär", "cat")
INPUT = {"size": 32, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}


def make_network(name: str = "cifar_resnet8x4", **options: object) -> Network:
    config = ModelConfig.model_validate({"name": name, **INPUT, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = build_network(config, 3, role="student")
        for buffer in network.buffers():
            if buffer.dtype == torch.float32:
                buffer.uniform_(0.5, 1.5)
        # What training leaves: weights in channels-last order.
        return network.eval().to(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def network() -> Network:
    return make_network()


@pytest.fixture(scope="module")
def folder(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "student"
    save_student(path, network, CLASSES, 2.5, {"augmentation": "test"})
    return path


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    shapes = [(32, 32, 3), (40, 50, 3), (20, 31, 3)]
    return [Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


def expected_probabilities(network: Network, pictures: list[Image.Image], temperature: float) -> torch.Tensor:
    rows = []
    for picture in pictures:
        pixels_HWC = np.asarray(frame(picture, Framing(32))).astype(np.float32) / 255
        normal = (pixels_HWC - np.float32(INPUT["mean"])) / np.float32(INPUT["std"])
        with torch.no_grad():
            logits_1C = network.model(torch.from_numpy(normal).permute(2, 0, 1)[None])
        rows.append((logits_1C[0].double() / temperature).exp())
    powers_BC = torch.stack(rows)
    return (powers_BC / powers_BC.sum(1, keepdim=True)).float()


def test_a_loaded_student_has_the_same_outputs(
    network: Network, folder: Path, pictures: list[Image.Image]
) -> None:
    for path in (folder, folder.parent, str(folder)):
        student = load_student(path)
        assert (student.class_names, student.temperature) == (CLASSES, 2.5)
        assert (student.network.size, student.network.mean, student.network.std) == tuple(INPUT.values())
        assert not any(parameter.requires_grad for parameter in student.network.parameters())
        probs_BC = student.probabilities(pictures)
        assert torch.allclose(probs_BC, expected_probabilities(network, pictures, 2.5), atol=1e-5)
        assert not torch.allclose(probs_BC, expected_probabilities(network, pictures, 1.0), atol=1e-3)


def test_files_and_grayscale_are_read(folder: Path, pictures: list[Image.Image], tmp_path: Path) -> None:
    student = load_student(folder)
    pictures[1].save(tmp_path / "x.png")
    from_file = student.probabilities([tmp_path / "x.png"])
    assert torch.equal(from_file, student.probabilities(pictures[1:2]))
    assert torch.equal(from_file, student.probabilities([str(tmp_path / "x.png")]))
    gray = pictures[0].convert("L")
    assert torch.equal(student.probabilities([gray]), student.probabilities([gray.convert("RGB")]))
    (tmp_path / "y.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"y\.png"):
        student.probabilities([tmp_path / "y.png"])
    with pytest.raises(DataError, match=r"y\.png"):
        student.probabilities([str(tmp_path / "y.png")])


def test_timm_loads_the_folder(network: Network, folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(pixels), network.model(pixels), atol=1e-6)
    data = timm.data.resolve_model_data_config(model)
    read = [tuple(data[key]) for key in ("input_size", "mean", "std")]
    assert read == [(3, 32, 32), INPUT["mean"], INPUT["std"]]
    assert (data["interpolation"], data["crop_pct"], model.num_classes) == ("bicubic", 1.0, 3)


def test_timm_can_replace_the_classifier(folder: Path) -> None:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=9)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 9)


def test_timms_own_models_are_saved_too(tmp_path: Path) -> None:
    network = make_network("mobilenetv3_small_050")
    save_student(tmp_path, network, CLASSES, 1.0, {})
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(model(pixels), network(pixels).logits_BC, atol=1e-5)
        assert torch.allclose(load_student(tmp_path).network(pixels).logits_BC, model(pixels), atol=1e-5)


def test_a_student_of_a_student_keeps_its_architecture(folder: Path, tmp_path: Path) -> None:
    config = ModelConfig(name=f"local-dir:{folder}")
    again = build_network(config, 3, role="student").eval()
    save_student(tmp_path, again, CLASSES, 1.25, {})
    loaded = load_student(tmp_path)
    assert loaded.temperature == 1.25
    for name, value in load_student(folder).network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], value)
    assert json.loads((tmp_path / "config.json").read_text())["architecture"] == "cifar_resnet8x4"


def test_the_config_says_where_the_student_came_from(folder: Path) -> None:
    text = (folder / "config.json").read_text(encoding="utf-8")
    assert "Bär" in text
    saved = json.loads(text)
    assert saved["richkd"] == {"temperature": 2.5, "augmentation": "test"}
    assert saved["architecture"] == "cifar_resnet8x4"
    assert (saved["num_classes"], saved["num_features"]) == (3, 256)


def test_saving_again_replaces_and_leaves_nothing_behind(network: Network, tmp_path: Path) -> None:
    for temperature in (1.0, 3.0):
        save_student(tmp_path, network, CLASSES, temperature, {})
    assert load_student(tmp_path).temperature == 3.0
    assert sorted(path.name for path in tmp_path.iterdir()) == [SUMS, "config.json", "model.safetensors"]


def test_folders_may_be_given_as_text(network: Network, tmp_path: Path) -> None:
    save_student(str(tmp_path / "new" / "student"), network, CLASSES, 2.0, {})
    assert load_student(str(tmp_path / "new")).temperature == 2.0
    assert load_student(tmp_path / "new" / "student").class_names == CLASSES


def test_a_model_from_timm_has_no_temperature(folder: Path, tmp_path: Path) -> None:
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del saved["richkd"]
    (tmp_path / "config.json").write_text(json.dumps(saved))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    assert load_student(tmp_path).temperature == 1.0


def test_folders_without_a_student(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_student(tmp_path / "none")
    assert (
        caught.value.rule
        == f"{tmp_path / 'none'} must be a student's folder with config.json and model.safetensors"
    )


@pytest.mark.parametrize(
    "damage", ["label_names", "architecture", "pretrained_cfg", "mean", "richkd", "text", "list"]
)
def test_damaged_configs(damage: str, folder: Path, tmp_path: Path) -> None:
    saved = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if damage == "mean":
        saved["pretrained_cfg"]["mean"] = [0.5]
    else:
        saved[damage] = None
    text = {"text": "{", "list": "[]"}.get(damage) or json.dumps(saved)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"must be a student's folder"):
        load_student(tmp_path)


def test_missing_and_damaged_weights(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(ModelError, match=r"Got: no model\.safetensors"):
        load_student(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100])
    with pytest.raises(ModelError, match=r"model\.safetensors must be a checkpoint"):
        load_student(tmp_path)


def orientations() -> list[Image.Image]:
    rng = np.random.default_rng(1)
    turned = Image.fromarray(rng.integers(0, 256, (20, 40, 3), dtype=np.uint8))
    turned.getexif()[0x0112] = 6
    clear = Image.fromarray(rng.integers(0, 256, (32, 32, 4), dtype=np.uint8), "RGBA")
    deep = Image.fromarray(rng.integers(0, 65536, (32, 40), dtype=np.uint16))
    return [turned, clear, deep]


@pytest.mark.parametrize("image", orientations(), ids=["turned", "transparent", "16 bits"])
def test_an_image_and_its_file_have_the_same_result(folder: Path, tmp_path: Path, image: Image.Image) -> None:
    student = load_student(folder)
    image.save(tmp_path / "x.png", exif=image.getexif())
    assert torch.equal(student.probabilities([image]), student.probabilities([tmp_path / "x.png"]))


def test_arrays_are_images(folder: Path, pictures: list[Image.Image]) -> None:
    student = load_student(folder)
    arrays = [np.asarray(picture) for picture in pictures]
    assert torch.equal(student.probabilities(arrays), student.probabilities(pictures))
    gray = np.asarray(pictures[0].convert("L"))
    both = student.probabilities([gray, gray[:, :, None]])
    assert torch.equal(both[0], both[1])
    assert student.probabilities([]).shape == (0, 3)


@pytest.mark.parametrize("kind", ["truncated", "closed", "floats"])
def test_an_image_whose_pixels_cannot_be_read_is_refused(folder: Path, kind: str) -> None:
    content = encode(Image.effect_noise((40, 40), 50))
    image = Image.open(io.BytesIO(content[:-300] if kind == "truncated" else content))
    words = "pixels that can be read"
    if kind == "closed":
        image.close()
    if kind == "floats":
        image, words = Image.new("F", (4, 4)), "8 or 16 bits"
    with pytest.raises(DataError, match=words):
        load_student(folder).probabilities([image])


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4)),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_an_array_that_is_no_image_is_refused(folder: Path, array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(DataError, match="uint8"):
        load_student(folder).probabilities([array])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"label_names": "ab"}, "list of texts"),
        ({"label_names": [["ant"], "bee"]}, "list of texts"),
        ({"richkd": {"temperature": 0}}, "positive and finite temperature"),
        ({"richkd": {"temperature": float("nan")}}, "positive and finite temperature"),
        ({"richkd": {"temperature": float("inf")}}, "positive and finite temperature"),
        ({"richkd": []}, "AttributeError"),
        ({"pretrained_cfg": {"input_size": [], "mean": [0, 0, 0], "std": [1, 1, 1]}}, "IndexError"),
        (
            {"pretrained_cfg": {"input_size": [3, 8, 8], "mean": [0, 0, 0], "std": [0, 1, 1]}},
            "greater than 0",
        ),
        (
            {"pretrained_cfg": {"input_size": [3, 8, 8], "mean": [float("nan"), 0, 0], "std": [1, 1, 1]}},
            "finite",
        ),
    ],
)
def test_a_configuration_that_cannot_predict_is_refused(
    tmp_path: Path, change: dict[str, object], words: str
) -> None:
    make_teacher(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(saved | change), encoding="utf-8")
    (tmp_path / SUMS).unlink()  # accepts the edit
    assert words in str(refusal(load_student, tmp_path))


def test_a_disk_that_is_full_is_said_in_words(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **options: object) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr("richkd.export.student.save_for_hf", full)
    error = refusal(save_student, tmp_path, network, ("a", "b", "c"), temperature=1.0, origin={})
    assert isinstance(error, CheckpointError)
    assert "model.safetensors" in error.rule
    assert "No space left on device" in str(error.got)
    assert not list(tmp_path.iterdir())
