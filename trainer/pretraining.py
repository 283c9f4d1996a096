"""Pretraining: the size and the normalisation of images that published weights were trained with."""

from dataclasses import dataclass

from facepack.errors import UsageError
from trainer import calls
from trainer.loading.augment import Normalize


@dataclass(frozen=True)
class Pretraining:
    """What a network with published weights expects of its images."""

    mean: tuple[float, ...]
    """Per channel RGB in 0..1."""
    std: tuple[float, ...]
    side_px: int
    """Height and width that the weights were trained at."""
    takes_others: bool = True
    """False where the weights fit images of this size alone."""

    @property
    def normalize(self) -> Normalize:
        """The last step of augmentation that gives images as the weights know them."""
        return Normalize(self.mean, self.std)


def pretraining_of(network: str, weights: str) -> Pretraining | None:
    """What is known of the weights of a network, such as "resnet34()" and "IMAGENET1K_V1"; None where nothing is.

    Weights by a name of the publisher's are as he describes them, and files as the default ones of their network.
    """
    name, _, settings = calls.name_and_arguments(network, what="network")
    where, _, what = name.rpartition(":")
    if where == "timm":
        return _of_timm(what, weights, is_fixed="img_size" not in settings)
    return _of_torchvision(what, weights) if where in ("", "torchvision") else None


def _of_timm(name: str, weights: str, *, is_fixed: bool) -> Pretraining | None:
    try:
        from timm.models import get_pretrained_cfg, is_model, list_pretrained
    except ImportError as error:
        raise UsageError(f"network timm:{name}: timm is not installed: pip install 'facepack[timm]'") from error
    architecture = name.partition(".")[0]
    if not is_model(architecture):
        return None
    tagged = f"{architecture}.{weights}"
    facts = get_pretrained_cfg(tagged if tagged in list_pretrained(f"{architecture}.*") else architecture)
    if facts is None:
        return None
    takes_others = not (facts.fixed_input_size and is_fixed)
    return Pretraining(tuple(facts.mean), tuple(facts.std), int(facts.input_size[-1]), takes_others)


def _of_torchvision(name: str, weights: str) -> Pretraining | None:
    from torchvision import models

    if name not in models.list_models(module=models):
        return None
    published = models.get_model_weights(name)
    if not published.__members__:
        return None
    chosen = published[weights] if weights in published.__members__ else published.DEFAULT
    transforms = chosen.transforms()
    (side_px,) = transforms.crop_size
    has_positions = name.startswith("vit_")  # which are weights, one for each patch
    return Pretraining(tuple(transforms.mean), tuple(transforms.std), int(side_px), takes_others=not has_positions)
