"""What a run is: typed, validated and printable settings; `settings.py` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """A group of settings: unknown keys are refused, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class DataConfig(Section):
    path: str = Field(description="image folder, folder of parquet files, or hub name")
    image_column: str | None = Field(None, description="column that holds the images (found if unset)")
    label_column: str | None = Field(None, description="column that holds the labels (found if unset)")
    key_column: str | None = Field(None, description="column that names each image (found if unset)")
    class_names: Path | None = Field(None, description="text file with one class name a line, in label order")
    hierarchy: Path | None = Field(None, description="YAML file {superclass: [class, …]}, for prompts")
    val_fraction: float = Field(0.1, ge=0, lt=1, description="share of train kept for validation; 0 for none")
    test_fraction: float = Field(
        0.2, ge=0, lt=1, description="share kept for test where data have no test split"
    )
    calibration: Path | None = Field(None, description="held-out images that no model was trained on")
    test_calibration_fraction: float = Field(
        0.0, ge=0, lt=1, description="share of test to fit on instead, left out of every evaluation"
    )
    exclude_fold: tuple[int, int] | None = Field(
        None, description="fold J of K of train that a teacher does not learn from"
    )
    unlabeled: str | None = Field(None, description="further training images, without labels")
    unlabeled_fraction: float | None = Field(
        None, gt=0, lt=1, description="share of each batch that is unlabeled (default: as they come)"
    )
    size: int | None = Field(
        None, ge=4, description="pixels of the square source images (default: the student's)"
    )
    in_memory_gb: float = Field(
        4.0, ge=0, description="decode once into memory up to this size, stream above it"
    )


class AugmentConfig(Section):
    policy: Literal["crop-flip", "random-resized-crop", "clean"] = Field(
        "crop-flip", description="how training images are augmented"
    )
    pad: int | None = Field(None, ge=0, description="crop-flip: black border in pixels (default: size / 8)")
    flip: bool = Field(True, description="mirror half of the views; wrong for digits, text or signs")
    scale: tuple[float, float] = Field((0.35, 1.0), description="random-resized-crop: share of the area")
    ratio: tuple[float, float] = Field((0.75, 1.333), description="random-resized-crop: width ÷ height")
    color_jitter: float = Field(0.0, ge=0, lt=1, description="random-resized-crop: strength of color jitter")
    mixup_alpha: float = Field(
        0.0, ge=0, description="blend pairs of images and their targets, shares from Beta(m, m); 0: do not"
    )
    num_views: int | None = Field(
        None,
        ge=1,
        description="random-resized-crop: epochs after which views repeat, so that a cache can hold them",
    )


class ModelConfig(Section):
    name: str = Field(
        description="timm name, local-dir:FOLDER, or package.module:callable; a teacher: also cache:NAME"
    )
    weights: Path | None = Field(None, description="checkpoint file (.safetensors, .pth)")
    pretrained: bool = Field(False, description="load timm's pretrained weights for the name")
    size: int | None = Field(None, ge=4, description="input resolution in pixels (default: the model's own)")
    mean: tuple[float, float, float] | None = Field(
        None, description="input mean in 0..1 (default: the model's)"
    )
    std: tuple[float, float, float] | None = Field(
        None, description="input std in 0..1 (default: the model's)"
    )


class ClipConfig(Section):
    name: str = Field(description="NAME:TAG, hf-hub:…, local-dir:…, or outputs:FILE computed elsewhere")
    prompts: str = Field("paper", description="simple, paper (12), openai (80), or a file of templates")
    class_prompts: Path | None = Field(None, description="YAML file with prompts of single classes")
    rename_classes: Path | None = Field(None, description="YAML file with names that CLIP is to read instead")
    prompt_weights: str = Field(
        "equal", description="equal, fitted on held-out images, or a YAML file {template: weight}"
    )
    cache: Path = Field(
        Path("~/.cache/richkd"), description="folder where class embeddings are kept between runs"
    )


class CacheConfig(Section):
    dir: Path | None = Field(
        None, description="folder where teachers' outputs are kept (default: computed at each step)"
    )
    top_k: int | None = Field(
        None, ge=1, description="keep only the largest logits, and the mass of the others"
    )


class FusionConfig(Section):
    preset: Literal["default", "paper", "as-released"] = Field(
        "default",
        description="default is fitted on held-out images; paper is ×100, α 0.7; as-released raw",
    )
    scale: Literal["raw", "logit-scale", "zscore", "temperature"] | None = Field(
        None, description="how teachers are brought to one scale (default: the preset's)"
    )
    mixing: (
        Literal["alpha", "simplex", "log-pool", "linear", "gate", "confidence", "per-class", "auto"] | None
    ) = Field(None, description="how teachers on one scale are mixed (default: the preset's)")
    alpha: float | None = Field(None, ge=0, le=1, description="weight α of the vision teacher's logits")
    feature_alpha: float | None = Field(
        None, ge=0, le=1, description="weight λ of the vision teacher's features"
    )
    features: Literal["raw", "standardized", "phi-s"] = Field(
        "raw", description="scale of features before they are embedded: own, each dimension's, or one"
    )
    control: Literal["teacher-only", "clip-only", "shuffled", "shuffled-in-class", "text-only"] | None = (
        Field(None, description="replace what CLIP knows of the image, and keep all else")
    )
    ood_quantile: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="share of held-out images as strange to a teacher as it takes for it to count less on an "
        "unlabeled one; 0: it always counts in full",
    )
    weights: tuple[float, ...] | None = Field(
        None, description="multiplier of each teacher's logits (teacher, CLIP); overrules α and scale"
    )


class MethodConfig(Section):
    name: str = Field("richkd", description="richkd, kd or ce")
    variant: Literal["l", "f", "lf"] = Field("lf", description="richkd: logits, features, or both")
    temperature: float = Field(3.0, gt=0, description="temperature of the logit loss")
    ce: float = Field(1.0, ge=0, description="weight of the cross-entropy with the labels")
    logits: float = Field(3.0, ge=0, description="weight of the logit loss")
    features: float = Field(0.8, ge=0, description="weight of the feature loss")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing of the cross-entropy")
    embed_width: int = Field(128, ge=2, description="width of the embedding that features are compared in")
    contrast: Literal["full", "shared", "queue"] = Field(
        "full",
        description="negatives: full, of its own for each image; shared by the batch; queue of the latest",
    )
    negatives: int = Field(16384, ge=1, description="contrastive negatives of other classes for each image")
    contrast_temperature: float = Field(0.07, gt=0, description="temperature of the contrastive scores")
    bank_momentum: float = Field(0.5, ge=0, lt=1, description="momentum of the memory banks")


class OptimConfig(Section):
    name: Literal["sgd", "adamw"] = Field("sgd", description="optimizer")
    lr: float = Field(0.05, gt=0, description="peak learning rate, for the whole batch")
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd: momentum")
    weight_decay: float = Field(5e-4, ge=0, description="weight decay")
    schedule: Literal["step", "cosine"] = Field("step", description="course of the learning rate")
    milestones: tuple[float, ...] = Field(
        (0.625, 0.75, 0.875), description="step: shares of the run after which the rate falls"
    )
    gamma: float = Field(0.1, gt=0, le=1, description="step: factor at each milestone")
    warmup_epochs: float = Field(0.0, ge=0, description="linear warm-up at the start")
    max_grad_norm: float | None = Field(None, gt=0, description="largest norm of the gradient")


class TrainConfig(Section):
    epochs: int = Field(240, ge=1, description="passes over the training images")
    batch_size: int = Field(64, ge=2, description="images in a step, over all processes")
    grad_accum_steps: int = Field(
        1, ge=1, description="parts that a step's batch is computed in, to save memory"
    )
    seed: int = Field(0, ge=0, description="everything random is a function of this and the step")
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the hardware has it"
    )
    teacher_precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="the same for the teacher")
    compile: Literal["auto", "always", "never"] = Field(
        "auto", description="compile the student; auto: where the run is long enough to repay it"
    )
    compile_teacher: bool = Field(False, description="compile the frozen teacher; pays in long runs")
    ema_decay: float | None = Field(
        None, gt=0, lt=1, description="decay of an average of weights, which is then kept"
    )
    eval_every: int = Field(1, ge=1, description="epochs between validations")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints (default: every epoch)")
    workers: int = Field(2, ge=0, description="decoding processes or threads")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = Field(
        ("tensorboard",), description="where curves are logged besides metrics.jsonl"
    )


class Config(Section):
    """All settings of a run."""

    data: DataConfig
    student: ModelConfig
    teacher: ModelConfig | None = None
    more_teachers: tuple[ModelConfig, ...] = Field(
        (), description="further vision teachers, each as a teacher: {name: …, weights: …}"
    )
    clip: ClipConfig | None = None
    cache: CacheConfig = CacheConfig()
    augment: AugmentConfig = AugmentConfig()
    fusion: FusionConfig = FusionConfig()
    method: MethodConfig = MethodConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    out: Path = Field(Path("runs/latest"), description="run folder")

    def to_yaml(self) -> str:
        return yaml.safe_dump(
            self.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True
        )
