"""Writes and reads a checkpoint's state: safetensors for plain arrays, torch's format for everything with tensors."""

import json
import os
import shutil
import sys

SAFETENSORS, TORCH = "state.safetensors", "state.pth"

# numpy's names of the types that safetensors has: https://github.com/huggingface/safetensors, "Format".
_DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write(state, directory):
    """Write state, a file, a directory or a dictionary, into directory."""
    if isinstance(state, (str, os.PathLike)):
        path = os.fspath(state)
        if os.path.isdir(path):
            shutil.copytree(path, directory, dirs_exist_ok=True)
        else:
            shutil.copy2(path, directory)
    elif _only_arrays(state):
        _write_safetensors(state, os.path.join(directory, SAFETENSORS))
    else:
        # Whoever has tensors has imported torch; importing it here costs a script without them seconds.
        torch = sys.modules.get("torch")
        if torch is None:
            raise TypeError(
                f"cannot save a {type(state).__name__}: give a dictionary of numpy arrays, a torch state, or the path of a file"
            )
        torch.save(state, os.path.join(directory, TORCH))


def read(directory, map_location="cpu"):
    """Read what write wrote; a directory with other files comes back as its path."""
    path = os.path.join(directory, SAFETENSORS)
    if os.path.exists(path):
        return _read_safetensors(path)
    path = os.path.join(directory, TORCH)
    if os.path.exists(path):
        import torch

        return torch.load(path, map_location=map_location, weights_only=True)
    return directory


def _only_arrays(state):
    numpy = sys.modules.get("numpy")
    return (
        numpy is not None
        and isinstance(state, dict)
        and bool(state)
        and all(isinstance(k, str) and isinstance(v, (numpy.ndarray, numpy.generic)) for k, v in state.items())
    )


def _write_safetensors(state, path):
    import numpy

    header, blobs, at = {}, [], 0
    for name in sorted(state):
        array = numpy.asarray(state[name])  # ascontiguousarray would make a vector of a scalar
        if array.dtype.name not in _DTYPES:
            raise TypeError(f"cannot save {name!r}: safetensors has no type for numpy's {array.dtype}")
        blob = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        header[name] = {"dtype": _DTYPES[array.dtype.name], "shape": list(array.shape), "data_offsets": [at, at + len(blob)]}
        blobs.append(blob)
        at += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little"))
        f.write(text)
        f.writelines(blobs)


def _read_safetensors(path):
    import numpy

    names = {short: name for name, short in _DTYPES.items()}
    with open(path, "rb") as f:
        header = json.loads(f.read(int.from_bytes(f.read(8), "little")))
        data = f.read()
    header.pop("__metadata__", None)
    state = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        kind = numpy.dtype(names[entry["dtype"]]).newbyteorder("<")
        # A copy: an array over the file's bytes could not be written to.
        state[name] = numpy.frombuffer(data[begin:end], dtype=kind).reshape(entry["shape"]).astype(kind.newbyteorder("="))
    return state
