"""The system, its encoding, and the environment variables on which a run depends."""

from __future__ import annotations

import locale
import os
import platform
import sys
from typing import Any

from richkd.doctor.hub import without_password

# Shown with their values. No variable of this list holds a secret.
SHOWN = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "KMP_AFFINITY",
    "OMP_PROC_BIND",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "CUBLAS_WORKSPACE_CONFIG",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "TORCHINDUCTOR_CACHE_DIR",
    "TORCH_HOME",
    "TORCHDYNAMO_DISABLE",
    "TORCH_COMPILE_DISABLE",
    "CXX",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "RANK",
    "WORLD_SIZE",
    "LOCAL_RANK",
    "ACCELERATE_USE_CPU",
    "ACCELERATE_MIXED_PRECISION",
    "NO_COLOR",
    "FORCE_COLOR",
    "TERM",
    "COLUMNS",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "XDG_CACHE_HOME",
    "PYTHONUTF8",
    "PYTHONIOENCODING",
    "PYTHONOPTIMIZE",
    "RICHKD_MAX_PIXELS",
    "WANDB_MODE",
)
# Addresses, which can contain a password.
ADDRESSES = ("HF_ENDPOINT", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "MLFLOW_TRACKING_URI")


def system() -> dict[str, Any]:
    """The operating system and the encodings of names and of output.

    Example:
        >>> sorted(system())
        ['encoding', 'file_names', 'libc', 'locale', 'machine', 'release', 'system', 'terminal']
    """
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "locale": ".".join(filter(None, locale.getlocale())) or None,
        "encoding": getattr(sys.stdout, "encoding", None),
        "file_names": sys.getfilesystemencoding(),
        "terminal": bool(sys.stdout and sys.stdout.isatty()),
    }


def variables() -> dict[str, str]:
    """Environment variables that are set and on which a run depends; none of them is a secret.

    Example:
        >>> "HF_TOKEN" in variables()
        False
    """
    values = {name: os.environ[name] for name in SHOWN if name in os.environ}
    for name in ADDRESSES:
        value = os.environ.get(name, os.environ.get(name.lower()))
        if value is not None:
            # A list of hosts, such as that of NO_PROXY, is no address.
            values[name] = without_password(value) if "//" in value else "set" if "@" in value else value
    return values
