"""What is wrong with a value, in words for people who do not write Python."""

from __future__ import annotations

from pydantic_core import ErrorDetails

# pydantic names types of Python; users write YAML and options.
_WORDS = {
    "tuple_type": "it must be a list, such as [0, 1]",
    "list_type": "it must be a list, such as [0, 1]",
    "dict_type": "it must be names with values, such as {name: value}",
    "model_type": "it must be names with values, such as {name: value}",
    "model_attributes_type": "it must be names with values, such as {name: value}",
    "string_type": "it must be text",
    "path_type": "it must be the path of a file or folder",
    "bool_type": "it must be true or false",
    "int_type": "it must be a whole number",
    "float_type": "it must be a number",
}


def message_of(error: ErrorDetails) -> str:
    """The message of a pydantic error, without words of Python.

    Example:
        >>> message_of({"type": "tuple_type", "loc": ("seeds",), "msg": "Input should be …", "input": 3})
        'it must be a list, such as [0, 1]'
    """
    return _WORDS.get(error["type"], error["msg"].removeprefix("Value error, "))
