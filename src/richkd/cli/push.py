"""The command ``richkd push``; no logic."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter


def push(
    student: Annotated[str, Parameter(help="student folder or run folder")],
    repository: Annotated[str, Parameter(help="name on the hub, OWNER/NAME")],
    /,
    *,
    private: Annotated[bool, Parameter(help="only you can see a new repository", negative="")] = False,
    dry_run: Annotated[
        bool, Parameter(help="list what would be uploaded, and send nothing", negative="")
    ] = False,
) -> None:
    """Upload a student to the Hugging Face hub: card, settings, weights, hashes, exported files.

    Log in once with `hf auth login`. Afterwards, hf-hub:OWNER/NAME is the student's name for this package and
    for timm.

    For example:

    richkd push runs/small jane/leaf-classifier --dry-run
    """
    from richkd.core.terminal import Terminal
    from richkd.export.hub import plan_upload
    from richkd.export.hub import push as send

    console = Terminal()
    upload = plan_upload(student, repository)
    for name, size in upload.sizes().items():
        console.print(f"{name}: {size:,} bytes", soft_wrap=True)
    if dry_run:
        console.print(f"nothing was sent; without --dry-run, these files go to {repository}", soft_wrap=True)
        return
    address = send(upload, private=private, log=console.print)
    console.print(address, soft_wrap=True)
    console.print(f"richkd predict hf-hub:{repository} IMAGE", soft_wrap=True)
