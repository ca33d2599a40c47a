"""All settings: typed, validated and documented. `loading.py` reads them from recipes and options.

The descriptions here are the help texts of the command line and of ``richkd settings``. Marks, such as FREE,
say what may differ when a run is resumed (`marks.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
)

from richkd.config.choices import AUGMENTATIONS, MIXINGS, SCALES
from richkd.config.entropy import read_entropy
from richkd.config.folds import FOLDS, one_of_default
from richkd.config.marks import WhenResumed
from richkd.config.model_name import with_prefix
from richkd.core.registry import OneOf
from richkd.core.visible import visible

Triple = tuple[float, float, float]
# The path of a saved model may be written without local-dir:.
NameOfModel = Annotated[str, AfterValidator(with_prefix)]
Positive = Annotated[float, Field(gt=0)]
Preset = Literal["default", "paper", "as-released"]
Entropy = Annotated[Literal["own", "match-teacher"] | float, BeforeValidator(read_entropy)]
Precision = Literal["auto", "bf16", "fp32"]
LARGEST_SEED = 2**64 - 1
FREE, FILES = WhenResumed.FREE, WhenResumed.FILES
IMAGES, LENGTH = WhenResumed.IMAGES, WhenResumed.LENGTH
# The value of data.unlabeled that names no source.
REST = "rest"


def _share_of_run(value: float) -> float:
    if not 0 < value < 1:
        raise ValueError("it must be a fraction of the run between 0 and 1: epoch 150 of 240 is 0.625")
    return value


def _range(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high:
        raise ValueError("it must be [LOW, HIGH] with 0 < LOW ≤ HIGH")
    return value


def _range_of_shares(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high <= 1:
        raise ValueError("it must be [LOW, HIGH] with 0 < LOW ≤ HIGH ≤ 1: fractions of the area of the image")
    return value


ShareOfRun = Annotated[float, AfterValidator(_share_of_run)]


class Section(BaseModel):
    """A group of settings. Unknown keys are refused, and values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


class DataConfig(Section):
    """Where the images are, and how they are divided into splits."""

    path: Annotated[str, IMAGES] = Field(
        description="image folder, list of images (.csv, .tsv, .jsonl), parquet files, tar shards, or name "
        "on the Hugging Face hub"
    )
    image_column: str | None = Field(None, description="column of the images (default: detected)")
    label_column: str | None = Field(None, description="column of the labels (default: detected)")
    key_column: str | None = Field(None, description="column that names each image (default: detected)")
    nested_classes: bool = Field(
        False, description="class folders are nested; a class is named by its path, such as animals/dogs"
    )
    class_names: Annotated[Path | None, FILES] = Field(
        None, description="text file with one class name per line, in label order"
    )
    hierarchy: Annotated[Path | None, FILES] = Field(None, description="YAML file {superclass: [class, …]}")
    val_fraction: float = Field(
        0.1, ge=0, lt=1, description="fraction of train that becomes the validation split; 0 for none"
    )
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="fraction that becomes the test split if the data have no splits"
    )
    calibration: Annotated[Path | None, IMAGES] = Field(
        None, description="folder of held-out images on which fusion and temperatures are fitted"
    )
    test_calibration_fraction: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of test on which fusion is fitted instead; excluded from every evaluation",
    )
    exclude_fold: Annotated[tuple[int, int] | None, BeforeValidator(one_of_default)] = Field(
        None, description=f"(J, K): leave fold J of K out of train; J alone means K = {FOLDS}"
    )
    labels_per_class: int | None = Field(
        None,
        ge=1,
        description="use the labels of only this many training images of each class, drawn without "
        "train.seed; others are left out, or are unlabeled images with data.unlabeled rest",
    )
    unlabeled: Annotated[str | None, IMAGES] = Field(
        None,
        description="folder of additional training images without labels; rest: the training images whose "
        "labels data.labels_per_class does not use",
    )
    unlabeled_fraction: float | None = Field(
        None, gt=0, lt=1, description="fraction of unlabeled images in each batch (default: as in the data)"
    )
    size: int | None = Field(
        None,
        ge=4,
        description="resolution in pixels of training images before views are cut (default: so large that no "
        "network sees an enlarged view, up to the size of the images)",
    )
    in_memory_gb: Annotated[float, FREE] = Field(
        4.0, ge=0, description="splits up to this size are decoded once into memory; larger ones are streamed"
    )


class AugmentConfig(Section):
    """How training images are augmented. Student and teachers see the same view."""

    policy: Annotated[str, OneOf(AUGMENTATIONS)] = Field("crop-flip", description="augmentation policy")
    pad: int | None = Field(
        None, ge=0, description="crop-flip: black border in pixels before cropping (default: size / 8)"
    )
    flip: bool = Field(True, description="mirror half of the views; set to false for digits, text or signs")
    scale: Annotated[tuple[float, float], AfterValidator(_range_of_shares)] = Field(
        (0.35, 1.0), description="random-resized-crop: range of the area, as fractions of the image's"
    )
    ratio: Annotated[tuple[float, float], AfterValidator(_range)] = Field(
        (0.75, 1.333), description="random-resized-crop: range of width / height"
    )
    color_jitter: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="random-resized-crop: strength of brightness, contrast and saturation jitter",
    )
    num_views: int | None = Field(
        None,
        ge=1,
        description="random-resized-crop: views repeat after this many epochs, so that a cache can hold them",
    )
    auto_augment: str | None = Field(
        None,
        description="random-resized-crop: policy of timm that changes each view, such as "
        "rand-m9-mstd0.5-inc1 (RandAugment), augmix-m3-w3 (AugMix), original (AutoAugment) or 3a (3-Augment)",
    )
    reprob: float = Field(
        0.0, ge=0, le=1, description="random-resized-crop: probability that a box of a view is erased"
    )
    remode: Literal["const", "rand", "pixel"] = Field(
        "pixel",
        description="random erasing: fill with the mean color of ImageNet (const), one random color (rand), "
        "or noise (pixel)",
    )
    recount: int = Field(1, ge=1, description="random erasing: largest number of boxes in a view")
    mixup_alpha: float = Field(
        0.0, ge=0, description="mixup alpha (weight ~ Beta(alpha, alpha)); 0 disables mixup"
    )
    cutmix_alpha: float = Field(
        0.0, ge=0, description="CutMix alpha (area of the box ~ Beta(alpha, alpha)); 0 disables CutMix"
    )
    mixup_switch_prob: float = Field(
        0.5, gt=0, lt=1, description="probability that a step has CutMix if mixup and CutMix are both used"
    )


class ModelConfig(Section):
    """A student or a vision teacher."""

    name: Annotated[NameOfModel, FILES] = Field(
        description="timm name, local-dir:FOLDER, hf-hub:OWNER/REPO or package.module:callable"
    )
    weights: Annotated[Path | None, FILES] = Field(None, description="checkpoint file (.safetensors, .pth)")
    pretrained: bool = Field(False, description="load timm's pretrained weights of this name")
    size: int | None = Field(
        None,
        ge=4,
        le=4096,
        description="input resolution in pixels (default: the model's own); a model of fixed resolution, "
        "such as a ViT, is built for it",
    )
    args: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="arguments of the model's constructor, for example {drop_path_rate: 0.1}; they are saved "
        "with the student",
    )
    mean: Triple | None = Field(None, description="input mean in 0..1 (default: the model's own)")
    std: tuple[Positive, Positive, Positive] | None = Field(
        None, description="input standard deviation in 0..1 (default: the model's own)"
    )
    crop_pct: float | None = Field(
        None,
        gt=0,
        le=1,
        description="evaluation: share of the resized short side that the network sees (default: a "
        "teacher's own; students see the whole short side, resized with bicubic)",
    )
    crop_mode: Literal["center", "squash"] | None = Field(
        None, description="evaluation: crop the center, or squash the image (default: as for crop_pct)"
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = Field(
        None,
        description="evaluation: how images are resized (default: as for crop_pct)",
    )
    # None is not written to config.yaml, so runs without this setting have the records that they always had.
    fold_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="teacher folds:FOLDER: weight of the logits of the network that was not trained on a "
        "labeled training image; the rest is that of the full teacher of `richkd teach --from`, else of the "
        "mean of the other networks (default: 1)",
    )

    @property
    def used_fold_share(self) -> float:
        """``fold_share``, or its default.

        Example:
            >>> ModelConfig(name="folds:runs/folds").used_fold_share
            1.0
        """
        return 1.0 if self.fold_share is None else self.fold_share


class ClipConfig(Section):
    """The CLIP that is fused with the vision teachers, and its prompts."""

    name: Annotated[NameOfModel, FILES] = Field(
        description="NAME:TAG of open_clip, NAME:TAG@FILE for weights of the tag's kind in a file, "
        "hf-hub:OWNER/REPO, local-dir:FOLDER, or outputs:FILE.npz that was computed elsewhere"
    )
    prompts: Annotated[str, FILES] = Field(
        "paper", description="simple (1), paper (12), openai (80), or a file of templates"
    )
    class_prompts: Annotated[Path | None, FILES] = Field(None, description="YAML file {class: [prompt, …]}")
    rename_classes: Annotated[Path | None, FILES] = Field(
        None, description="YAML file {class: name to use in prompts}"
    )
    prompt_weights: Annotated[str, FILES] = Field(
        "equal", description="equal, fitted (on held-out images), or a YAML file {template: weight}"
    )
    cache: Annotated[Path, FREE] = Field(
        Path("~/.cache/richkd"), description="folder where class embeddings are cached"
    )


class CacheConfig(Section):
    """The teacher cache: outputs of teachers per (image, view), on disk."""

    dir: Annotated[Path | None, FREE] = Field(
        None, description="folder of the teacher cache; stored outputs are reused with bit-identical targets"
    )
    top_k: int | None = Field(
        None, ge=1, description="store only the largest logits and the total mass of the others"
    )


class MixingConfig(Section):
    """The fusion of training images with labels, or without; what is not given is that of ``fusion``."""

    preset: Preset | None = Field(None, description="preset of these images")
    scale: Annotated[str | None, OneOf(SCALES)] = Field(
        None, description="how logits of teachers are brought to one scale for these images"
    )
    mixing: Annotated[str | None, OneOf(MIXINGS)] = Field(
        None, description="how scaled teachers are mixed for these images"
    )
    alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the vision teachers' logits for these images"
    )
    weights: tuple[float, ...] | None = Field(
        None, description="multiplier of each teacher's logits for these images; replaces alpha and scale"
    )
    entropy: Entropy | None = Field(
        None, description="own, match-teacher, or mean entropy in nats of the target of these images"
    )


class FusionConfig(Section):
    """How several teachers become one target."""

    preset: Preset = Field(
        "default",
        description="default: fitted on held-out images; paper: CLIP logits × 100 with alpha 0.7; "
        "as-released: raw cosines with alpha 0.7",
    )
    scale: Annotated[str | None, OneOf(SCALES)] = Field(
        None, description="how logits of teachers are brought to one scale (default: the preset's)"
    )
    mixing: Annotated[str | None, OneOf(MIXINGS)] = Field(
        None, description="how scaled teachers are mixed (default: the preset's)"
    )
    alpha: float | None = Field(None, ge=0, le=1, description="weight of the vision teachers' logits")
    feature_alpha: float | None = Field(
        None, ge=0, le=1, description="weight of the vision teachers' features"
    )
    features: Literal["raw", "standardized", "phi-s"] = Field(
        "raw", description="scale of teachers' features before they are projected"
    )
    control: Literal["teacher-only", "clip-only", "shuffled", "shuffled-in-class", "text-only"] | None = (
        Field(
            None,
            description="train a control: replace CLIP's knowledge of the image and keep everything else",
        )
    )
    ood_quantile: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="a teacher counts less for an unlabeled image that is more unusual to it than all but "
        "this fraction of held-out images; 0 disables this",
    )
    weights: tuple[float, ...] | None = Field(
        None,
        description="multiplier of each teacher's logits (vision teachers, then CLIP); "
        "replaces alpha and scale",
    )
    entropy: Entropy = Field(
        "own",
        description="mean entropy of the softened target on training views: as the fusion gives it (own), "
        "that of the vision teacher alone (match-teacher), or a number of nats",
    )
    labeled: MixingConfig | None = Field(
        None, description="other settings of the fusion for training images with labels"
    )
    unlabeled: MixingConfig | None = Field(
        None, description="other settings of the fusion for training images without labels"
    )


class MethodConfig(Section):
    """Which preset of terms the student minimizes. See `richkd.methods.presets`."""

    name: str | None = Field(
        None, description="richkd (default), or any loss term together with cross-entropy: ce, kd, dkd, at, …"
    )
    variant: Literal["l", "f", "lf"] | None = Field(
        None, description="richkd: fused logits, fused features, or both (lf, the default)"
    )


class OptimConfig(Section):
    """Optimizer and learning rate."""

    name: str = Field(
        "momentum",
        description="any optimizer of timm: momentum (SGD), sgd (SGD with Nesterov momentum), adamw, …",
    )
    lr: float = Field(0.05, gt=0, description="peak learning rate for the whole batch")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum, for optimizers that have one")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay")
    decay_norm_and_bias: bool = Field(True, description="apply weight decay to norms and biases, too")
    schedule: Literal["step", "cosine"] = Field("step", description="learning-rate schedule")
    milestones: tuple[ShareOfRun, ...] = Field(
        (0.625, 0.75, 0.875),
        description="step: fractions of the run after which the rate is multiplied by gamma",
    )
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor at each milestone")
    warmup_epochs: float = Field(0.0, ge=0, description="epochs of linear warm-up")
    max_grad_norm: float | None = Field(None, gt=0, description="clip the gradient to this norm")


class TrainConfig(Section):
    """The training loop."""

    epochs: Annotated[int, LENGTH] = Field(240, ge=1, description="passes over the training images")
    batch_size: int = Field(64, ge=2, description="images per optimizer step, over all processes")
    grad_accum_steps: int = Field(1, ge=1, description="parts in which a batch is computed, to save memory")
    seed: int = Field(
        0,
        ge=0,
        le=LARGEST_SEED,
        description="seed; everything random is a function of it and of the step",
    )
    device: Annotated[str, FREE] = Field("auto", description="auto, cuda, cuda:N, mps or cpu")
    precision: Precision = Field(
        "auto", description="precision of the student; auto: what a measurement of a few steps finds fastest"
    )
    teacher_precision: Precision = Field(
        "auto", description="precision of the vision teachers for training images; auto: measured"
    )
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="compile the student; auto: if the run is long and a measurement shows a gain"
    )
    compile_teacher: bool = Field(False, description="compile the vision teachers; useful in long runs")
    shard_teachers: Annotated[bool, FREE] = Field(
        False,
        description="divide the weights of vision teachers and CLIP among the processes (FSDP2), for "
        "teachers that are larger than a GPU",
    )
    ema_decay: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="decay of an exponential moving average of the weights, which is then saved",
    )
    eval_every: int = Field(1, ge=1, description="epochs between validations")
    save_every: Annotated[int | None, FREE] = Field(
        None, ge=1, description="steps between checkpoints (default: every epoch)"
    )
    process_timeout: Annotated[float, FREE] = Field(
        600.0,
        ge=1,
        description="seconds that processes of a run wait for each other before they end with an error",
    )
    workers: Annotated[int, FREE] = Field(2, ge=0, description="processes or threads that decode images")
    trackers: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow", "trackio"], ...], FREE] = Field(
        ("tensorboard",),
        description="experiment trackers besides metrics.jsonl; all but tensorboard have to be installed",
    )


# A list is the whole objective; a mapping changes and adds terms.
ObjectiveConfig = list[dict[str, dict[str, Any] | None]] | dict[str, dict[str, Any] | None]


class Config(Section):
    """All settings of a run. `richkd.load_config` builds it from a recipe and overrides.

    Example:
        >>> config = Config(data={"path": "photos"}, student={"name": "resnet18"}, optim={"lr": 0.1})
        >>> config.student.name, config.optim.lr, config.train.epochs
        ('resnet18', 0.1, 240)
    """

    data: DataConfig
    student: ModelConfig
    teachers: tuple[ModelConfig, ...] = Field(
        (), description="vision teachers: [{name: …, weights: …}, …]; --teachers.1.size sets one of the first"
    )
    clip: ClipConfig | None = None
    cache: CacheConfig = Field(default_factory=CacheConfig)
    augment: AugmentConfig = Field(default_factory=AugmentConfig)
    fusion: FusionConfig = Field(default_factory=FusionConfig)
    method: MethodConfig = Field(default_factory=MethodConfig)
    objective: ObjectiveConfig = Field(
        default_factory=dict,
        description="loss terms and their settings: a list of {term: {setting: value}} is the whole "
        "objective, a mapping changes the method's terms",
    )
    optim: OptimConfig = Field(default_factory=OptimConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    out: Annotated[Path, FREE] = Field(Path("runs/latest"), description="run folder")

    def to_yaml(self) -> str:
        """The settings as a recipe that gives the same settings again."""
        settings = self.model_dump(mode="json", exclude_none=True)
        text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
        # YAML writes some hidden characters as they are, unless it writes all signs beyond ASCII as escapes.
        hidden = any(visible(line) != line for line in text.split("\n"))
        return yaml.safe_dump(settings, sort_keys=False) if hidden else text


class EvaluateConfig(Section):
    """What ``richkd evaluate`` and ``richkd report`` measure."""

    split: str = Field("test", description="train, val, test or calibration")
    label_column: str | None = Field(None, description="column of the labels (default: detected)")
    nested_classes: bool | None = Field(
        None, description="class folders are nested (known for a run on the same data)"
    )
    test_calibration_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="fraction of test that runs were fitted on (known for a run on the same data)",
    )
    hierarchy: Path | None = Field(None, description="YAML file {superclass: [class, …]}")
    teachers: bool = Field(False, description="also evaluate the first run's teachers and their fusion")
    corruptions: bool = Field(
        False, description="evaluate 15 corruptions at 5 severities, generated from the images"
    )
    validation_corruptions: bool = Field(
        False, description="evaluate the 4 corruptions that are reserved for tuning"
    )
    cifar_c: Path | None = Field(
        None, description="folder of the published CIFAR-C files, used instead of generated ones"
    )
    shift: dict[str, str] = Field(
        default_factory=dict, description="NAME=DIR: other images of the same classes; repeat for several"
    )
    device: str = Field("auto", description="auto, cuda, cuda:N, mps or cpu")
