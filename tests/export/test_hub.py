"""Students on the Hugging Face hub, which is a local server here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from richkd.config.schema import ModelConfig
from richkd.core.checksums import SUMS
from richkd.core.errors import ModelError
from richkd.export.hub import plan_upload
from richkd.export.student import save_student
from richkd.models.build import build_network
from tests.hub_server import TOKEN, Hub, hub_server

pytestmark = pytest.mark.slow

CARD = "# A student\n\n`local-dir:PATH_OF_THIS_FOLDER`, `richkd predict PATH_OF_THIS_FOLDER photo.jpg`\n"


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    network = build_network(ModelConfig(name="cifar_resnet8", size=16), 2, role="student")
    save_student(run / "student", network, ("ant", "bee"), temperature=1.5, origin={})
    (run / "student" / "README.md").write_text(CARD)
    (run / "student" / "model.onnx").write_bytes(b"exported")
    (run / "student" / "notes.txt").write_text("mine")
    Image.new("RGB", (20, 30), "red").save(run / "red.png")
    return run


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as served:
        yield served


def richkd(*words: str, env: dict[str, str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "richkd", *words]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        command, env=kept | env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_the_plan_has_the_files_of_a_student_and_their_hashes(student: Path) -> None:
    upload = plan_upload(student, "jane/ants")
    assert set(upload.files) == {"README.md", "config.json", "model.safetensors", "model.onnx", SUMS}
    card = upload.files["README.md"]
    assert isinstance(card, bytes)
    assert card.decode() == "# A student\n\n`hf-hub:jane/ants`, `richkd predict hf-hub:jane/ants photo.jpg`\n"
    sums = upload.files[SUMS]
    assert isinstance(sums, bytes)
    assert b"notes.txt" not in sums
    assert b"model.onnx" in sums


@pytest.mark.parametrize("name", ["ants", "jane/ants/small", "jane/an ts", "-x/ants", ""])
def test_names_that_no_repository_has_are_refused(student: Path, name: str) -> None:
    with pytest.raises(ModelError, match="must be the name of a repository"):
        plan_upload(student, name)


def test_a_folder_without_a_student_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no config.json and no model.safetensors"):
        plan_upload(tmp_path, "jane/ants")


def test_a_pushed_student_is_fetched_and_predicts_the_same(student: Path, hub: Hub, tmp_path: Path) -> None:
    env = hub.environment(tmp_path / "home")
    pushed = richkd("push", str(student), "jane/ants", "--private", env=env)
    assert pushed.returncode == 0, pushed.stderr
    assert pushed.stdout.splitlines()[-2:] == [
        f"{hub.address}/jane/ants",
        "richkd predict hf-hub:jane/ants IMAGE",
    ]
    assert hub.private == {"jane/ants"}
    assert hub.repositories["jane/ants"]["model.onnx"] == b"exported"
    assert TOKEN not in pushed.stdout + pushed.stderr
    image = str(student / "red.png")
    here = richkd("predict", str(student), image, "--json", env=env)
    fetched = richkd("predict", "hf-hub:jane/ants", image, "--json", env=env)
    assert fetched.returncode == 0, fetched.stderr
    assert fetched.stdout == here.stdout
    files = [file for file in (tmp_path / "home").rglob("*") if file.is_file()]
    assert files
    assert not any(TOKEN.encode() in file.read_bytes() for file in files)
    exported = richkd("export", "hf-hub:jane/ants", "--to", "pt2", "--images", image, env=env, cwd=tmp_path)
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "ants.pt2").is_file()
    # What was fetched once is there without a network.
    offline = richkd("predict", "hf-hub:jane/ants", image, "--json", env=env | {"HF_HUB_OFFLINE": "1"})
    assert offline.stdout == here.stdout


def test_a_dry_run_sends_nothing(student: Path, hub: Hub, tmp_path: Path) -> None:
    done = richkd("push", str(student), "jane/ants", "--dry-run", env=hub.environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "model.safetensors: " in done.stdout
    assert hub.asked == []


@pytest.mark.parametrize("token", [None, "hf_aWrongTokenThatIsStillSecret"])
def test_a_missing_or_wrong_token_is_named_but_not_shown(
    student: Path, hub: Hub, tmp_path: Path, token: str | None
) -> None:
    done = richkd("push", str(student), "jane/ants", env=hub.environment(tmp_path, token=token))
    assert done.returncode == 1
    assert "hf auth login" in done.stderr
    assert "Traceback" not in done.stderr
    assert "StillSecret" not in done.stdout + done.stderr


def test_offline_and_unknown_repositories_say_what_to_do(student: Path, hub: Hub, tmp_path: Path) -> None:
    env = hub.environment(tmp_path)
    offline = env | {"HF_HUB_OFFLINE": "1"}
    image = str(student / "red.png")
    push = richkd("push", str(student), "jane/ants", env=offline)
    assert "unset it, or use --dry-run" in push.stderr
    missing = richkd("predict", "hf-hub:jane/ants", image, env=offline)
    assert "fetch it once with a network" in missing.stderr
    unknown = richkd("predict", "hf-hub:jane/nobody", image, env=env)
    assert "check the name" in unknown.stderr
    unreachable = richkd(
        "predict", "hf-hub:jane/ants", image, env=env | {"HF_ENDPOINT": "http://127.0.0.1:9"}
    )
    for done in (push, missing, unknown, unreachable):
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
