"""A frozen CLIP model as a zero-shot teacher: its logits are cosines between images and class embeddings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from richkd.core.errors import ClipError
from richkd.core.files import hash_tensors
from richkd.core.temporary import remove_abandoned
from richkd.core.types import Batch, Output
from richkd.core.waiting import waiting
from richkd.data.views import Views, render_batch
from richkd.models.sharded import Sharded
from richkd.teachers.base import Teacher, ZeroShot
from richkd.teachers.cache.row_format import RowFormat, as_stored
from richkd.teachers.clip.embedding_cache import embeddings_path, read_embeddings, write_embeddings
from richkd.teachers.clip.preprocessing import read_preprocessing
from richkd.teachers.clip.prompt_weights import PromptSet
from richkd.teachers.clip.prompts import templates
from richkd.teachers.clip.tokens import Tokenizer, check_tokens, encode_text, vocabulary, vocabulary_size

PRECISIONS = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


class Clip:
    """A CLIP model with its tokenizer, with frozen weights and in evaluation mode; see `load_clip`.

    Attributes:
        logit_scale: factor of the cosines before the softmax (not its logarithm).
        embed_width: width D of the embeddings.
        image_size: height and width of the input in pixels.
        framing: the part of a picture that it sees in evaluation.
        mean, std: normalization of each color channel, for pixel values in [0, 1].

    Example:
        >>> import richkd
        >>> from richkd.teachers.clip.load import load_clip
        >>> clip = load_clip(f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}")
        >>> embeddings_CD = clip.embed_prompts([["a photo of a one"], ["a photo of a two"]])
        >>> [round(float(norm), 4) for norm in embeddings_CD.norm(dim=1)]
        [1.0, 1.0]
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        *,
        name: str,
        config: Mapping[str, Any],
        dtype: torch.dtype,
    ) -> None:
        # open_clip's models have attributes that nn.Module does not declare.
        self.model: Any = cast(Any, model.eval().requires_grad_(False))
        self.tokenizer = tokenizer
        self.name = name
        self.dtype = dtype
        self.logit_scale = float(self.model.logit_scale.double().exp())
        self.embed_width = int(config["embed_dim"])
        preprocessing = read_preprocessing(self.model.visual.preprocess_cfg, name)
        self.framing, self.mean, self.std = preprocessing.framing, preprocessing.mean, preprocessing.std
        self.image_size = self.framing.size
        self._image_device = self.device
        self._divided: Sharded | None = None
        # The configuration has the activation, which changes the outputs of equal weights.
        self._described = {"model": config, "preprocessing": asdict(preprocessing)}

    @property
    def device(self) -> torch.device:
        """The device of the model; of its text tower, if images have another one."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def image_device(self) -> torch.device:
        """The device of the image tower."""
        return self._image_device

    def divide_images(self, device: torch.device) -> None:
        """Divide the weights of the image tower among the processes; see `richkd.models.sharded`.

        The text tower stays where it is. Embed the class names before, or later on the CPU.

        Args:
            device: device of this process.

        Raises:
            ModelError: the weights cannot be divided.
        """
        _ = self.fingerprint  # of the whole model
        blank = torch.zeros(1, 3, self.image_size, self.image_size, device=device, dtype=self.dtype)
        idle = partial(self._encode, blank)
        self._divided = Sharded(self.model.visual, device, idle, name=f"CLIP '{self.name}'")
        self._image_device = device

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that outputs depend on: weights, dtype, configuration, preprocessing, tokenizer."""
        digest = hashlib.sha256(json.dumps(self._described, sort_keys=True, default=str).encode())
        digest.update(hash_tensors(self.model.state_dict()).encode())
        # Tokens also depend on text cleaning and on the version of the library, so tokens of test
        # sentences are hashed, too.
        probes = [template.replace("{}", "Déjà-vu 1984, snow's_owl") for template in templates("openai")]
        digest.update(self.tokenizer(probes).long().numpy().tobytes())
        digest.update(json.dumps(sorted(vocabulary(self.tokenizer).items())).encode())
        return digest.hexdigest()

    def embed_prompts(self, prompts_by_class: Sequence[Sequence[str]], batch_size: int = 512) -> Tensor:
        """Compute the class embeddings (C, D), float32 with unit norm, from the prompts of each class.

        The embedding of a class is the L2-normalized mean of the L2-normalized embeddings of its prompts
        (RichKD, arXiv 2511.09286; Radford et al. 2021, section 3.1.4).

        Args:
            prompts_by_class: the prompts of each class.
            batch_size: number of prompts per forward pass of the text tower.

        Raises:
            ClipError: see `embed_each`.
        """
        parts = self.embed_each(prompts_by_class, batch_size)
        embeddings_CD = functional.normalize(torch.stack([part.mean(dim=0) for part in parts]), dim=1)
        return embeddings_CD.clone()

    def embed_each(
        self, prompts_by_class: Sequence[Sequence[str]], batch_size: int = 512
    ) -> tuple[Tensor, ...]:
        """Compute the embeddings (P, D) of the prompts of each class, float32 with unit norm.

        Args:
            prompts_by_class: the prompts of each class.
            batch_size: number of prompts per forward pass of the text tower.

        Raises:
            ClipError: a class has no prompts, two different prompts have the same tokens, a prompt has an
                unknown token, or an embedding is NaN or infinite.
        """
        counts = [len(prompts) for prompts in prompts_by_class]
        if not counts or 0 in counts:
            at = counts.index(0) if counts else 0
            raise ClipError("Every class needs a prompt", got=f"none for class {at}", fix="add a prompt.")
        flat = list(chain.from_iterable(prompts_by_class))
        unique = list(dict.fromkeys(flat))
        tokens_PL = self.tokenizer(unique)
        check_tokens(unique, tokens_PL, self.tokenizer, vocabulary_size(self.model))
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=False):
            chunks = [
                encode_text(self.model, part.to(self.device))
                for part in waiting(
                    f"embedding prompts with {self.name}",
                    torch.split(tokens_PL, batch_size),
                    len(unique),
                    unit="prompts",
                    count=len,
                )
            ]
            embeds_PD = functional.normalize(torch.cat(chunks).float(), dim=1)
            position = {prompt: row for row, prompt in enumerate(unique)}
            rows = torch.tensor([position[prompt] for prompt in flat], device=self.device)
            parts = torch.split(embeds_PD[rows], counts)
        for at, part in enumerate(parts):
            if not part.isfinite().all():
                raise ClipError(
                    f"The text embeddings of {self.name} must be finite",
                    got=f"NaN or infinity for class {at}, whose first prompt is {prompts_by_class[at][0]!r}",
                    fix=f"load the model in float32 instead of {self.dtype}, and check its weights.",
                )
        return tuple(part.clone() for part in parts)

    def class_embeddings(
        self, class_names: Sequence[str], prompts: Sequence[Sequence[str]], cache_dir: str | Path | None
    ) -> Tensor:
        """Compute `embed_prompts`, or read its result from ``cache_dir``.

        The file name is a hash of the fingerprint and the prompts. A damaged file is replaced, and logged.

        Args:
            class_names: names of the classes; stored in the file as information.
            prompts: the prompts of each class.
            cache_dir: folder of the files; None computes without a cache.

        Raises:
            ClipError: see `embed_each`.
            CheckpointError: ``cache_dir`` cannot be written.
        """
        assert len(class_names) == len(prompts), "one list of prompts per class"
        if cache_dir is None:
            return self.embed_prompts(prompts)
        key = hashlib.sha256(json.dumps([self.fingerprint, [list(p) for p in prompts]]).encode()).hexdigest()
        path = embeddings_path(Path(cache_dir), key)
        remove_abandoned(path.parent)
        stored_CD = read_embeddings(path, key, (len(prompts), self.embed_width))
        if stored_CD is not None:
            return stored_CD.to(self.device)
        embeddings_CD = self.embed_prompts(prompts)
        write_embeddings(path, key, embeddings_CD, clip=self.name, class_names=class_names)
        return embeddings_CD

    def image_features(self, pixels_B3HW: Tensor) -> Tensor:
        """Image embeddings (B, D) of normalized pixels, float32 with unit norm, without gradient.

        Autocast around the call has no effect. The outputs depend on the dtype given to `load_clip` only, so
        they can be stored under `fingerprint`.
        """
        assert pixels_B3HW.is_floating_point(), "pixels must be normalized floats, not uint8"
        call = partial(self._encode, pixels_B3HW.to(self.image_device, self.dtype))
        with torch.inference_mode():
            embeds_BD = call() if self._divided is None else self._divided.run(call)
            feats_BD = functional.normalize(embeds_BD.float(), dim=1)
        # Trained heads use the features, and autograd cannot save inference tensors for the backward pass.
        return feats_BD.clone()

    def _encode(self, pixels_B3HW: Tensor) -> Tensor:
        with torch.autocast(self.image_device.type, enabled=False):
            embeds_BD: Tensor = self.model.encode_image(pixels_B3HW)
        return embeds_BD


class ClipTeacher(Teacher):
    """CLIP as a teacher: cosines and image features of the views of the student, at CLIP's own resolution.

    ``logits_BC`` are cosines in [-1, 1]; multiplied by ``logit_scale`` they are CLIP's logits.

    Args:
        clip: the model.
        class_embeddings_CD: text embedding of each class.
        prompts: computes the embeddings of each prompt template; None if they are not available.

    Example:
        >>> import richkd
        >>> from richkd.teachers.clip.load import load_clip
        >>> clip = load_clip(f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}")
        >>> teacher = ClipTeacher(clip, clip.embed_prompts([["a photo of a one"], ["a photo of a two"]]))
        >>> output = teacher.cosines(torch.zeros(3, 3, 16, 16))
        >>> tuple(output.logits_BC.shape), tuple(output.feats_BF.shape)
        ((3, 2), (3, 64))
    """

    sees_pixels, role = True, "CLIP"

    def __init__(
        self, clip: Clip, class_embeddings_CD: Tensor, prompts: Callable[[], PromptSet] | None = None
    ) -> None:
        assert class_embeddings_CD.shape[1] == clip.embed_width, "class embeddings of another width"
        self.clip, self._prompts = clip, prompts
        class_embeddings_CD = class_embeddings_CD.to(clip.image_device).float()
        self.class_embeddings_CD = functional.normalize(class_embeddings_CD, dim=1)
        self.logit_scale = clip.logit_scale
        self.name, self.feature_width = clip.name, clip.embed_width
        self.framing = clip.framing

    @cached_property
    def prompts(self) -> PromptSet | None:
        """The prompt templates with the class embeddings of each; computed when first used."""
        return None if self._prompts is None else self._prompts()

    @property
    def zero_shot(self) -> ZeroShot:
        def reweighted(class_embeddings_CD: Tensor) -> Teacher:
            teacher = ClipTeacher(self.clip, class_embeddings_CD, self._prompts)
            teacher.name = self.name
            return teacher

        return ZeroShot(self.class_embeddings_CD, lambda: self.prompts, reweighted)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model and the class embeddings."""
        rows = self.class_embeddings_CD.cpu().contiguous().view(torch.uint8).numpy().tobytes()
        return hashlib.sha256(self.clip.fingerprint.encode() + rows).hexdigest()

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "CLIP has no intermediate maps"
        clip = self.clip
        return self.cosines(render_batch(batch, views, clip.image_size, clip.mean, clip.std))

    def cosines(self, pixels_B3HW: Tensor) -> Output:
        """Cosines in [-1, 1] (not multiplied by ``logit_scale``) and unit-norm features of normalized pixels.

        Features are rounded to float16 first, as in a cache (`as_stored`).
        """
        self.computed += len(pixels_B3HW)
        feats_BD = self.clip.image_features(pixels_B3HW)
        return self.restored(as_stored(Output(feats_BD[:, :0], feats_BD)))

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(0, self.feature_width)

    def restored(self, stored: Output) -> Output:
        """Compute the cosines from stored features. So a cache stays valid if the prompts change."""
        feats_BD = functional.normalize(stored.feats_BF, dim=1)
        # The cosines of an image differ by about 0.03 only; autocast to half precision would lose this.
        with torch.autocast(feats_BD.device.type, enabled=False):
            cosines_BC = (feats_BD @ self.class_embeddings_CD.T).clamp(-1.0, 1.0)
        return Output(logits_BC=cosines_BC, feats_BF=feats_BD)

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        clip = self.clip
        return {"CLIP": clip.name, "CLIP's weights": clip.fingerprint, "device": clip.image_device.type}
