"""A student that reuses the classifier of a teacher, for loss terms that are defined with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models import get_model_input_config, resolve_model_input_args
from torch import nn

from richkd.config.model_name import parse_model_name
from richkd.core.errors import ConfigError, ModelError
from richkd.core.logs import Log
from richkd.core.seeds import mix_seed
from richkd.methods.objective import TermSpec
from richkd.models.build import Network
from richkd.models.create import Blueprint
from richkd.models.probe import first_line, pixels_for, unchanged
from richkd.models.reused_classifier import ARCHITECTURE
from richkd.models.stage_ends import classifier_of, find_stage_ends
from richkd.pipeline.roles import Roles
from richkd.teachers.base import Teacher

OTHER_TERM = "use another loss term on features, such as reviewkd or crd."


def with_reused_classifier(
    student: Network,
    specs: Sequence[TermSpec],
    roles: Roles,
    vision: Sequence[Teacher | None],
    seed: int,
    log: Log = lambda message: None,
) -> Network:
    """The student that the terms ask for: the given one, or its layers with a teacher's classifier.

    Args:
        student: the student of the settings; its weights are copied.
        specs: the loss terms.
        roles: which teachers belong to which target.
        vision: the vision teachers; None for those without a network.
        seed: seed of the run, from which the projector is initialized.
        log: receives a line if the student is changed.

    Raises:
        ConfigError: two terms reuse the classifiers of different teachers, or the logits of the teacher are
            not a linear layer of its pooled feature.
        ModelError: the student is no timm model, or has no intermediate maps.
    """
    reusing = [spec for spec in specs if spec.term.reuses_classifier]
    if not reusing:
        return student
    places = {roles.vision[spec.target][0]: spec for spec in reusing}
    if len(places) > 1:
        raise ConfigError(
            "A student can reuse the classifier of one teacher only",
            got=", ".join(f"objective.{spec.label} with target {spec.target}" for spec in places.values()),
            fix="remove all of these terms but one, or give them the same target.",
        )
    ((place, spec),) = places.items()
    teacher = vision[place]
    network = None if teacher is None else teacher.network
    if network is None:
        return student  # a teacher without maps is refused by name, for every term that reads maps
    reused = _build(student, network, f"objective.{spec.label}", seed)
    log(f"student: {student.name} with a projector to the classifier of {network.name}, which stays fixed")
    return reused


def _build(student: Network, teacher: Network, term: str, seed: int) -> Network:
    ends, classifier = find_stage_ends(teacher), classifier_of(teacher)
    if not ends.linear or not isinstance(classifier, nn.Linear):
        raise ConfigError(
            f"Term {term} reuses the classifier of the teacher, which must be one linear layer behind the "
            "pooled feature",
            got=f"teacher {teacher.name} with a {type(classifier).__name__}",
            fix=OTHER_TERM,
        )
    student.map_shapes()  # refuses a student without maps
    args = {
        "backbone": student.blueprint.architecture,
        "backbone_args": _backbone_args(student, term),
        "width": classifier.in_features,
        "signed": ends.signed,
    }
    model = _created(student, args, seed)
    _copy_classifier(model, classifier)
    _freeze_unused(model, student.size)
    return Network(
        model,
        f"{student.name} with a reused classifier",
        size=student.size,
        mean=student.mean,
        std=student.std,
        framing=student.framing,
        loaded=student.loaded,
        blueprint=Blueprint(ARCHITECTURE, args),
    )


def _backbone_args(student: Network, term: str) -> dict[str, Any]:
    """The arguments of the student's constructor, with its resolution if that is fixed."""
    name = student.blueprint.architecture
    if parse_model_name(name).kind == "callable" or not timm.is_model(name) or name == ARCHITECTURE:
        raise ModelError(
            f"Term {term} adds a projector to the student, which must be a model that timm builds by name",
            got="a student with a reused classifier" if name == ARCHITECTURE else name,
            fix=f"choose a student of timm.list_models(), or {OTHER_TERM}",
        )
    args = dict(student.blueprint.args)
    used = get_model_input_config(student.model)["input_size"][-1]
    wanted = {} if "img_size" in args else {"img_size": used}
    sized = resolve_model_input_args(name, wanted, **args).get("img_size")
    return args if sized is None else {**args, "img_size": sized}


def _created(student: Network, args: dict[str, Any], seed: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(seed, "projector"))
        try:
            model: Any = timm.create_model(ARCHITECTURE, num_classes=student.classes, **args)
        except Exception as error:  # constructors raise exceptions of any class
            raise ModelError(
                f"The student {student.name} cannot be built without its classifier",
                got=first_line(error),
                fix=f"choose another student, or {OTHER_TERM}",
            ) from error
    missing, _ = model.backbone.load_state_dict(student.model.state_dict(), strict=False)
    if missing:
        raise ModelError(
            f"The student {student.name} must have the same layers without its classifier",
            got=f"other names, such as {missing[0]}",
            fix=f"choose another student, or {OTHER_TERM}",
        )
    return model  # type: ignore[no-any-return]


def _copy_classifier(model: Any, classifier: nn.Linear) -> None:
    with torch.no_grad():
        model.fc.weight.copy_(classifier.weight)
        # A classifier without a bias is one whose bias is zero.
        model.fc.bias.copy_(classifier.bias) if classifier.bias is not None else model.fc.bias.zero_()
    model.fc.requires_grad_(False)


def _freeze_unused(model: nn.Module, size: int) -> None:
    """Several processes wait for the gradient of every trained parameter, so layers without one are fixed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with unchanged(model, training=True), torch.enable_grad():
        gradients = torch.autograd.grad(model(pixels_for(model, size)).sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)
