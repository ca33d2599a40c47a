"""Hostile texts: recipes, hierarchies, names of classes, lists of images."""

from __future__ import annotations

import os
from pathlib import Path

from tests.core.test_structured import LAUGHS, MERGED_LAUGHS

DEEP = 100_000

RECIPES: dict[str, str | bytes] = {
    "empty.yaml": "",
    "comment.yaml": "# nothing\n",
    "list.yaml": "- data\n- student\n",
    "word.yaml": "data",
    "laughs.yaml": LAUGHS,
    "merged laughs.yaml": MERGED_LAUGHS,
    "cyclic.yaml": "data: &a {path: *a}",
    "deep.yaml": "[" * 3000,
    "indented.yaml": "\n".join("  " * n + "a:" for n in range(700)),
    "section twice.yaml": "data: {path: x}\nstudent: {name: y}\ndata: {path: z}\n",
    "key twice.yaml": "data: {path: x, path: y}\nstudent: {name: y}\n",
    "code.yaml": "data: !!python/object/apply:os.system ['touch ran']\n",
    "name.yaml": "data: !!python/name:os.system\n",
    "date.yaml": "data: 2024-99-99\n",
    "binary.yaml": "data: !!binary '###'\n",
    "flag.yaml": "data: !!bool maybe\n",
    "number.yaml": "data: !!int ''\n",
    "digits.yaml": "train: {epochs: " + "9" * 5000 + "}\n",
    "null character.yaml": "data: \x00\n",
    "latin.yaml": "data: {path: caf\xe9}".encode("latin1"),
    "utf-16.yaml": "data: {path: x}".encode("utf-16"),
    "tab.yaml": "data:\n\tpath: x\n",
    "quote.yaml": "data: {path: 'x}\n",
    "merge.yaml": "data:\n  <<: 5\n",
    "anchor.yaml": "data: *nowhere\n",
    "two documents.yaml": "data: {path: x}\n---\ndata: {path: y}\n",
    "keys.yaml": "1: 2\n",
    "no key.yaml": "? [a, b]\n: c\n",
    "sections.yaml": "data: 5\nstudent: [1]\ntrain: x\n",
    "null sections.yaml": "data:\nstudent:\n",
    "image.yaml": b"\x89PNG\r\n\x1a\n\0\0\0",
    "objective.yaml": "data: {path: x}\nstudent: {name: y}\nobjective: [[[]]]\n",
    "objectives.yaml": "data: {path: x}\nstudent: {name: y}\nobjective: {kd: {target: [1]}}\n",
    "teachers.yaml": "data: {path: x}\nstudent: {name: y}\nteachers: {1: 2}\n",
}
HIERARCHIES: dict[str, str | bytes] = {
    "empty.json": "",
    "deep.json": "[" * DEEP,
    "deep objects.json": '{"a":' * DEEP,
    "list.json": "[1, 2]",
    "twice.json": '{"a": ["ant"], "a": ["bee"]}',
    "words.json": '{"a": "ant"}',
    "nested.json": '{"a": [["ant"]], "b": [{}]}',
    "nan.json": "NaN",
    "digits.json": '{"a": [' + "9" * 5000 + "]}",
    "missing.json": '{"a": ["ant", "bee"]}',
    "two.json": '{"a": ["ant", "bee", "cow"], "b": ["ant"]}',
    "latin.json": '{"a": ["caf\xe9"]}'.encode("latin1"),
    "lone surrogate.json": '{"\\ud800": ["\\ud800"]}',
    "null.yaml": "null",
    "numbers.yaml": "{1: [2], true: [null]}",
}
CLASS_NAMES: dict[str, str | bytes] = {
    "empty names.txt": "",
    "two names.txt": "ant\nbee\n",
    "equal names.txt": "sea_lion\nsea lion\ncow\n",
    "binary names.txt": bytes(range(256)),
    "blank names.txt": "ant\n\ncow\n",
}
LISTS: dict[str, str | bytes] = {
    "empty.csv": "",
    "head.csv": "image,label\n",
    "blank.csv": "\n\n\n",
    "quote.csv": 'image,label\n"a.png,ant\n',
    "ragged.csv": "image,label\na.png,ant,x\n",
    "columns twice.csv": "image,image\na.png,ant\n",
    "other columns.csv": "x,y\na.png,ant\n",
    "no label.csv": "image,label\na.png,\na.png,ant\n",
    "two labels.csv": "image,label\na.png,ant\na.png,bee\n",
    "one class.csv": "image,label\na.png,ant\nb.png,ant\n",
    "missing.csv": "image,label\ngone.png,ant\nb.png,bee\n",
    "absolute.csv": "image,label\n/no/such/a.png,ant\nb.png,bee\n",
    "folder.csv": "image,label\n.,ant\nb.png,bee\n",
    "pipe inside.csv": "image,label\npipe.png,ant\nb.png,bee\n",
    "device.csv": "image,label\n/dev/zero,ant\nb.png,bee\n",
    "null character.csv": "image,label\na\0.png,ant\nb.png,bee\n",
    "long cell.csv": "image,label\n" + "a" * 200_000 + ",ant\n",
    "long name.csv": "image,label\n" + "a/" * 5000 + "a.png,ant\nb.png,bee\n",
    "many columns.csv": ",".join(f"c{n}" for n in range(20_000)) + "\n1\n",
    "latin.csv": "image,label\ncaf\xe9.png,ant\n".encode("latin1"),
    "utf-16.csv": "image,label\na.png,ant\n".encode("utf-16"),
    "binary.tsv": bytes(range(256)) * 4,
    "splits.csv": "image,label,split\na.png,ant,train\nb.png,bee,somewhere\n",
    "deep.jsonl": "[" * DEEP,
    "twice.jsonl": '{"image": "a.png", "image": "b.png", "label": "ant"}\n',
    "numbers.jsonl": "1\n2\n",
    "nested.jsonl": '{"image": ["a.png"], "label": {"a": 1}}\n',
    "cut.jsonl": '{"image": "a.png", "label"\n',
    "object.json": '{"image": "a.png"}',
    "deep.json": "[" * DEEP,
    "nothing.json": "[]",
    "digits.json": '[{"image": "a.png", "label": ' + "9" * 5000 + "}]",
    "words.txt": "one\ntwo words\nthree of them\n",
}


def write_texts(folder: Path, texts: dict[str, str | bytes], pipe: str) -> list[Path]:
    """Write the texts, and a pipe in the place of one."""
    folder.mkdir(exist_ok=True)
    for name, content in texts.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    os.mkfifo(folder / pipe)
    return [*(folder / name for name in texts), folder / pipe]
