// Classify an image in the browser. The file of `richkd export --to onnx` resizes, crops and normalizes by itself.
// Addresses can be given, too: index.html?model=small.onnx&image=holiday.jpg
import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";

const TOP = 5;
// Several threads need headers of the server (cross-origin isolation), and a small model does not need them.
ort.env.wasm.numThreads = 1;

// The texts in the metadata of an ONNX file, which onnxruntime-web does not read: field 14 of the message.
function metadataOf(bytes) {
  const texts = {};
  for (const [field, value] of fieldsOf(bytes)) {
    if (field === 14) {
      const entry = Object.fromEntries(fieldsOf(value));
      const decode = (part) => new TextDecoder().decode(part ?? new Uint8Array());
      texts[decode(entry[1])] = decode(entry[2]);
    }
  }
  return texts;
}

// The fields of a message of protobuf that are texts or messages.
function* fieldsOf(bytes) {
  let place = 0;
  const number = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[place++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (place < bytes.length) {
    const key = number();
    const kind = key & 7;
    if (kind === 0) number();
    else if (kind === 1) place += 8;
    else if (kind === 5) place += 4;
    else if (kind === 2) {
      const length = number();
      yield [key >>> 3, bytes.subarray(place, place + length)];
      place += length;
    } else throw new Error("this is no ONNX file");
  }
}

// The pixels of an image as uint8 (1, height, width, 3), with the orientation of the camera, on white.
async function pixelsOf(blob) {
  const image = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, image.width, image.height);
  context.drawImage(image, 0, 0);
  const rgba = context.getImageData(0, 0, image.width, image.height).data;
  const rgb = new Uint8Array((rgba.length / 4) * 3);
  for (let pixel = 0; pixel * 4 < rgba.length; pixel++) {
    rgb.set(rgba.subarray(4 * pixel, 4 * pixel + 3), 3 * pixel);
  }
  return new ort.Tensor("uint8", rgb, [1, image.height, image.width, 3]);
}

let model = null;
let image = null;

async function classify() {
  if (!model || !image) return;
  showStatus("Classifying …");
  try {
    const { probabilities } = await model.session.run({ images: await pixelsOf(image) });
    const ranked = model.names.map((name, index) => [probabilities.data[index], name]);
    ranked.sort((a, b) => b[0] - a[0]);
    const rows = ranked.slice(0, TOP).map(([probability, name]) => {
      const row = document.createElement("li");
      row.dataset.probability = probability;
      row.dataset.name = name;
      row.textContent = `${(100 * probability).toFixed(1)} % ${name}`;
      return row;
    });
    document.getElementById("result").replaceChildren(...rows);
    showStatus("Done.");
  } catch (error) {
    showStatus(`Failed: ${error.message}`);
  }
}

async function load(blob) {
  showStatus("Loading the model …");
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const names = JSON.parse(metadataOf(bytes).class_names);
  return { names, session: await ort.InferenceSession.create(bytes) };
}

async function fetched(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`${address}: ${response.status}`);
  return response.blob();
}

function showStatus(text) {
  document.getElementById("status").textContent = text;
}

function onFile(id, use) {
  document.getElementById(id).addEventListener("change", async (event) => {
    try {
      await use(event.target.files[0]);
      await classify();
    } catch (error) {
      showStatus(`Failed: ${error.message}`);
    }
  });
}

onFile("model", async (file) => (model = await load(file)));
onFile("image", async (file) => (image = file));
const given = new URLSearchParams(location.search);
if (given.has("model") && given.has("image")) {
  try {
    image = await fetched(given.get("image"));
    model = await load(await fetched(given.get("model")));
    await classify();
  } catch (error) {
    showStatus(`Failed: ${error.message}`);
  }
}
