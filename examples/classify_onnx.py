"""Classify images with an ONNX file of `richkd export`; needs onnxruntime, Pillow and numpy, not richkd.

python classify_onnx.py small.onnx holiday.jpg garden.png
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="file of `richkd export --to onnx`")
    parser.add_argument("images", nargs="+")
    parser.add_argument("--top", type=int, default=3, help="number of classes to print")
    options = parser.parse_args()
    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    class_names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    for path in options.images:
        with Image.open(path) as image:
            # Orientation of the camera; transparent pixels would be black without a white background.
            upright = ImageOps.exif_transpose(image).convert("RGBA")
        background = Image.new("RGBA", upright.size, "white")
        pixels = np.asarray(Image.alpha_composite(background, upright).convert("RGB"))
        (probabilities,) = session.run(["probabilities"], {"images": pixels[None]})
        print(path)
        for index in np.argsort(-probabilities[0])[: options.top]:
            print(f"  {probabilities[0, index]:6.1%}  {class_names[index]}")


if __name__ == "__main__":
    main()
