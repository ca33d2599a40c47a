"""Networks by name; importing this registers the CIFAR benchmark's with timm."""

from richkd.models import cifar, cifar_mobile

__all__ = ["cifar", "cifar_mobile"]
