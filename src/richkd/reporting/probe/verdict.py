"""What a probe's figures mean: the verdict, and what of its ground is shaky. In plain words."""

from __future__ import annotations

from richkd.reporting.probe.probe import Probe

# Share of answers that are right on training images beyond which a teacher has nothing left to say there.
SATURATED = 0.99
# Below so many nats the student's target is the teacher's, whatever CLIP says.
NO_SIGNAL = 0.001
# Held-out images below which intervals are so wide that little is known.
FEW_IMAGES = 200
# A teacher that is right less often than so many times chance knows nothing of these classes.
CHANCE_FACTOR = 3


def headline(result: Probe) -> str:
    """What to do, in one line."""
    if not result.helps:
        return "No: do not use CLIP here, train with --method kd."
    return "Yes, CLIP makes this a better teacher."


def explanation(result: Probe) -> str:
    """What the headline rests on, and what to expect of a student."""
    ground = (
        f"Fused with CLIP the teacher is right on {result.fused.metrics.top1:.1%} of {result.images:,} "
        f"held-out images, alone on {result.teacher.metrics.top1:.1%}, CLIP alone on "
        f"{result.clip.metrics.top1:.1%}; "
        f"its loss (NLL) is lower by {result.gain:.3f} ± {result.error:.3f} nats."
    )
    return f"{ground} {_of_the_student(result)}".strip()


def warnings(result: Probe) -> list[str]:
    """What of a probe's ground is shaky: a teacher that knows its images by heart, names that mislead."""
    messages = []
    top1 = result.teacher.metrics.top1
    if result.images < FEW_IMAGES:
        messages.append(
            f"{result.images} held-out images are few: read the intervals, and trust small differences least."
        )
    if result.bare:
        messages.append(
            f"{len(result.bare)} classes have no held-out image, first {result.bare[0]}; "
            "nothing is known of these."
        )
    for teacher in result.teachers:
        if teacher.metrics.top1 < CHANCE_FACTOR / result.class_count:
            messages.append(
                f"{teacher.name} is right on {teacher.metrics.top1:.1%}, which is near chance "
                f"({1 / result.class_count:.1%}): its classes are probably in another order."
            )
    if result.train_top1 >= SATURATED and top1 >= SATURATED:
        messages.append(
            f"the teacher is right on {top1:.1%} of {result.split}: was it trained on these images? Then "
            "they flatter it, and a fusion fitted here trusts it too much; give --data.calibration DIR."
        )
    elif result.train_top1 >= SATURATED:
        messages.append(
            f"the teacher is right on {result.train_top1:.1%} of its training images and on {top1:.1%} of "
            f"{result.split}: of its training images it says little more than the labels. Teachers that each "
            "left out a part of them say more: richkd teach --folds 5."
        )
    messages += [f"class '{a.class_name}': {a.problem}; {a.advice}" for a in result.names]
    return messages


def _of_the_student(result: Probe) -> str:
    if not result.helps:
        return ""
    if result.unlabeled > result.labeled:
        return (
            f"With {result.labeled / result.class_count:.0f} labeled images a class and {result.unlabeled:,} "
            "unlabeled ones, expect a better student too: what CLIP knows reaches it through the images "
            "that nobody has labeled."
        )
    return (
        f"A better teacher is not yet a better student: most of the {result.labeled:,} training images have "
        "labels, and there a softer teacher helps a student as much as CLIP does. Train the control too, "
        "with --fusion.control teacher-only, or add images without labels by --unlabeled DIR."
    )
