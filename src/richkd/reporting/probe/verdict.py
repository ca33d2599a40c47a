"""The conclusions from a probe in words: recommendation, explanation and warnings."""

from __future__ import annotations

from enum import Enum

from richkd.metrics.accuracy import near_chance
from richkd.reporting.probe.result import CLEAR, Probe

# Accuracy on training images from which a teacher's outputs contain little more than the labels.
SATURATED = 0.99
# Below this target shift in nats, the student's target is practically that of the teacher without CLIP.
NO_SIGNAL = 0.001
# With fewer held-out images the confidence intervals are wide.
FEW_IMAGES = 200

TRIAL = (
    "A short trial says more than a rule: add --tune 5m to richkd distill. Plain KD, the control and this "
    "method then get five minutes of training each, and the best on validation images is trained."
)


class Outcome(Enum):
    """What a probe found; `decide_outcome` decides."""

    NOTHING_USABLE = "both near chance"
    TEACHER_NOT_USABLE = "teacher near chance"
    CLIP_NOT_USABLE = "CLIP near chance"
    UNDECIDED = "undecided"
    NO = "no"
    YES = "yes"


def decide_outcome(result: Probe) -> Outcome:
    """The first of these that holds: a teacher near chance, too few images to tell, no gain, a gain.

    A teacher near chance (`richkd.metrics.accuracy.near_chance`) comes first: whatever is fused with it looks
    like a gain. A gain whose interval of ± 2 standard errors includes 0 on fewer than `FEW_IMAGES` images is
    undecided.

    Example:
        >>> from types import SimpleNamespace as Made
        >>> teacher, clip = Made(metrics=Made(top1=0.1)), Made(metrics=Made(top1=0.6))
        >>> decide_outcome(Made(teacher=teacher, clip=clip, class_count=10, images=500, helps=True))
        <Outcome.TEACHER_NOT_USABLE: 'teacher near chance'>
    """
    teacher, clip = (
        near_chance(one.metrics.top1, result.class_count, result.images)
        for one in (result.teacher, result.clip)
    )
    if teacher or clip:
        alone = Outcome.TEACHER_NOT_USABLE if teacher else Outcome.CLIP_NOT_USABLE
        return Outcome.NOTHING_USABLE if teacher and clip else alone
    # The standard error of a single image is NaN.
    if result.images < FEW_IMAGES and not abs(result.gain) > CLEAR * result.error:
        return Outcome.UNDECIDED
    return Outcome.YES if result.helps else Outcome.NO


def headline(result: Probe) -> str:
    """The recommendation in one line: use CLIP or not, or why that cannot be said.

    Example:
        >>> from types import SimpleNamespace as Made
        >>> good = Made(metrics=Made(top1=0.6))
        >>> headline(Made(teacher=good, clip=good, class_count=10, images=500, helps=True))
        'Yes: fusing CLIP improves the teacher on these classes.'
        >>> headline(Made(teacher=good, clip=good, class_count=10, images=500, helps=False))
        'No: do not use CLIP here. Train with --method kd.'
    """
    outcome = decide_outcome(result)
    if outcome is Outcome.YES:
        return "Yes: fusing CLIP improves the teacher on these classes."
    if outcome is Outcome.NO:
        return "No: do not use CLIP here. Train with --method kd."
    if outcome is Outcome.UNDECIDED:
        return (
            f"Undecided: {result.images:,} held-out images are too few for a verdict, because the interval "
            "of the gain includes 0. Give more with --data.calibration DIR or --data.val_fraction."
        )
    chance = f"near chance ({1 / result.class_count:.1%})"
    teacher, clip = result.teacher.metrics.top1, result.clip.metrics.top1
    if outcome is Outcome.CLIP_NOT_USABLE:
        return (
            f"No: do not use CLIP here, because its accuracy of {clip:.1%} is {chance}. Check its class "
            "names and prompts, or train with --method kd."
        )
    first = "Check the order of its classes and its weights first, then repeat the probe."
    if outcome is Outcome.NOTHING_USABLE:
        return (
            f"No: the teacher is not usable, and neither is CLIP: their accuracies of {teacher:.1%} and "
            f"{clip:.1%} are {chance}. {first.replace('its', 'their')}"
        )
    return (
        f"No: the teacher is not usable, because its accuracy of {teacher:.1%} is {chance}. {first} CLIP "
        "alone needs no teacher: --method kd --objective.kd.target clip."
    )


def explanation(result: Probe) -> str:
    """The accuracies and the gain behind the headline, and what to expect of a student."""
    metrics = (
        f"Accuracy on {result.images:,} held-out images: fused teacher {result.fused.metrics.top1:.1%}, "
        f"teacher alone {result.teacher.metrics.top1:.1%}, CLIP alone {result.clip.metrics.top1:.1%}. "
        f"The calibrated NLL of the fused teacher is {abs(result.gain):.3f} ± {result.error:.3f} nats "
        f"{'lower' if result.gain > 0 else 'higher'} than that of the teacher (± standard error)."
    )
    return f"{metrics} {_student_expectation(result)}".strip()


def warnings(result: Probe) -> list[str]:
    """Problems that make the result of a probe unreliable, one sentence or two each.

    Such problems are: few held-out images, classes without images, a teacher near chance, a teacher that was
    trained on the held-out images or knows its training images by heart, and misleading class names.
    """
    messages = []
    if result.images < FEW_IMAGES:
        messages.append(
            f"{result.images} held-out images are few: the confidence intervals are wide, and small "
            "differences are not reliable."
        )
    if result.bare:
        messages.append(
            f"classes without a held-out image: {len(result.bare)}, first {result.bare[0]}. Their accuracy "
            "is unknown."
        )
    for teacher in result.teachers:
        if near_chance(teacher.metrics.top1, result.class_count, result.images):
            # CLIP knows the classes by their names, which have no order.
            advice = (
                "check its class names and prompts (--clip.rename_classes, --clip.prompts)."
                if teacher is result.clip
                else "its classes are probably in another order."
            )
            messages.append(
                f"the accuracy of {teacher.name}, {teacher.metrics.top1:.1%}, is near chance "
                f"({1 / result.class_count:.1%}): {advice}"
            )
    messages += _saturation_warning(result.train_top1, result.teacher.metrics.top1, result.split)
    messages += [f"class '{a.class_name}': {a.problem}; {a.advice}" for a in result.names]
    return messages


def _saturation_warning(train_top1: float, held_out_top1: float, split: str) -> list[str]:
    if train_top1 < SATURATED:
        return []
    if held_out_top1 >= SATURATED:
        return [
            f"the accuracy of the teacher on {split} is {held_out_top1:.1%}: it was probably trained on "
            "these images. Then its accuracy here is too optimistic, and a fusion that is fitted here gives "
            "it too much weight. Give other images with --data.calibration DIR."
        ]
    return [
        f"the accuracy of the teacher is {train_top1:.1%} on its training images and {held_out_top1:.1%} on "
        f"{split}: its outputs for training images contain little more than the labels. Outputs of "
        "out-of-fold teachers (richkd teach --from RUN) contain more, but made no better student where this "
        "was measured."
    ]


def _student_expectation(result: Probe) -> str:
    if decide_outcome(result) is Outcome.UNDECIDED:
        return TRIAL
    if decide_outcome(result) is not Outcome.YES:
        return ""
    if result.unlabeled > result.labeled:
        return (
            f"There are {result.labeled / result.class_count:.0f} labeled training images per class and "
            f"{result.unlabeled:,} unlabeled ones. Expect a better student, too: it learns CLIP's knowledge "
            "from the unlabeled images. In the eight cases of this kind that were measured, it was right on "
            f"2.1 to 44 more of 100 images than the best student without CLIP. {_alone(result)}"
        ).strip()
    return (
        f"This does not imply a better student: {result.labeled:,} of "
        f"{result.labeled + result.unlabeled:,} training images are labeled, and on labeled images a softer "
        f"target alone can help a student as much as CLIP does. {TRIAL} Unlabeled images (--unlabeled DIR) "
        "help more."
    )


def _alone(result: Probe) -> str:
    """Advice for a vision teacher that adds so little to CLIP that CLIP alone was not clearly worse."""
    suffices = any(
        candidate.name == f"{result.clip.name} alone" and candidate.nll <= result.choice.threshold
        for candidate in result.choice.candidates
    )
    if not suffices:
        return ""
    return (
        "The teacher adds little: the NLL of CLIP alone is less than one standard error higher. In two "
        "measured cases of this kind, CLIP alone made as good a student, or one that was right on 1.5 more "
        "of 100 images. So compare --fusion.control clip-only."
    )
