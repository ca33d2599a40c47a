"""Build networks from their names. Importing this package registers its networks with timm."""

from richkd.models import cifar, cifar_mobile, reused_classifier

__all__ = ["cifar", "cifar_mobile", "reused_classifier"]
