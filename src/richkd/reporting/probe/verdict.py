"""What a probe's figures mean: the verdict, and what of its ground is shaky. In plain words."""

from __future__ import annotations

from richkd.reporting.probe.probe import Probe

# Share of answers that are right on training images beyond which a teacher has nothing left to say there.
SATURATED = 0.99
# Below so many nats the student's target is the teacher's, whatever CLIP says.
NO_SIGNAL = 0.001
# Held-out images below which intervals are so wide that little is known.
FEW_IMAGES = 200
# An expert that is right less often than so many times chance knows nothing of these classes.
CHANCE_FACTOR = 3


def headline(found: Probe) -> str:
    """What to do, in one line."""
    if not found.helps:
        return "No: do not use CLIP here, train with --method kd."
    return "Yes, CLIP makes this a better teacher."


def explanation(found: Probe) -> str:
    """What the headline rests on, and what to expect of a student."""
    ground = (
        f"Fused with CLIP the teacher is right on {found.fused.metrics.top1:.1%} of {found.images:,} "
        f"held-out images, alone on {found.teacher.metrics.top1:.1%}, CLIP alone on "
        f"{found.clip.metrics.top1:.1%}; "
        f"its loss (NLL) is lower by {found.gain:.3f} ± {found.error:.3f} nats."
    )
    return f"{ground} {_of_the_student(found)}".strip()


def warnings(found: Probe) -> list[str]:
    """What of a probe's ground is shaky: a teacher that knows its images by heart, names that mislead."""
    told = []
    teacher = found.teacher.metrics.top1
    if found.images < FEW_IMAGES:
        told.append(
            f"{found.images} held-out images are few: read the intervals, and trust small differences least."
        )
    if found.bare:
        told.append(
            f"{len(found.bare)} classes have no held-out image, first {found.bare[0]}; "
            "nothing is known of these."
        )
    for expert in found.experts:
        if expert.metrics.top1 < CHANCE_FACTOR / found.class_count:
            told.append(
                f"{expert.name} is right on {expert.metrics.top1:.1%}, which is near chance "
                f"({1 / found.class_count:.1%}): its classes are probably in another order."
            )
    if found.train_top1 >= SATURATED and teacher >= SATURATED:
        told.append(
            f"the teacher is right on {teacher:.1%} of {found.split}: was it trained on these images? Then "
            "they flatter it, and a fusion fitted here trusts it too much; give --data.calibration DIR."
        )
    elif found.train_top1 >= SATURATED:
        told.append(
            f"the teacher is right on {found.train_top1:.1%} of its training images and on {teacher:.1%} of "
            f"{found.split}: of its training images it says little more than the labels. Teachers that each "
            "left out a part of them say more: richkd teach --folds 5."
        )
    told += [f"class '{a.class_name}': {a.problem}; {a.advice}" for a in found.names]
    return told


def _of_the_student(found: Probe) -> str:
    if not found.helps:
        return ""
    if found.unlabeled > found.labeled:
        return (
            f"With {found.labeled / found.class_count:.0f} labelled images a class and {found.unlabeled:,} "
            "unlabelled ones, expect a better student too: what CLIP knows reaches it through the images "
            "that nobody has labelled."
        )
    return (
        f"A better teacher is not yet a better student: most of the {found.labeled:,} training images have "
        "labels, and there a softer teacher helps a student as much as CLIP does. Train the control too, "
        "with --fusion.control teacher-only, or add images without labels by --unlabeled DIR."
    )
