"""Build networks from their names. Importing this package registers the CIFAR networks with timm."""

from richkd.models import cifar, cifar_mobile

__all__ = ["cifar", "cifar_mobile"]
