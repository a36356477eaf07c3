"""Names what a file is when it is not ours, and the way from there to a model we can use. Nothing is ever opened by it."""

import re

HEAD_BYTES = 512
_TORCH_CURE = (
    'if you trust where it came from, turn it into data first: python -c "import torch, safetensors.torch as s; '
    "s.save_file(torch.load('IN', weights_only=True), 'OUT.safetensors')\" with a plain state dict in IN, "
    "then give OUT.safetensors to regraft fit --weights"
)
_REFIT_CURE = "regraft loads only the folders it saved; make one from your images with regraft fit IMAGES"
_PICKLE = "a Python pickle, which can run code when it is opened"
_SIGNATURES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive (PyTorch .pt/.pth, TorchScript or .keras)", _TORCH_CURE),
    (0, b"PK\x05\x06", "an empty zip archive", _REFIT_CURE),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file (Keras .h5)", _REFIT_CURE),
    (0, b"\x93NUMPY", "a NumPy .npy file", _REFIT_CURE),
    (0, b"GGUF", "a GGUF file", _REFIT_CURE),
    (4, b"TFL3", "a TensorFlow Lite file", _REFIT_CURE),
    (4, b"PTMF", "a TorchScript mobile file", _TORCH_CURE),
    (4, b"ET12", "an ExecuTorch program", _REFIT_CURE),
    (0, b"\x1f\x8b", "gzip-compressed data", "unpack it first; inside should be the folder that regraft saved"),
    (0, b"BZh", "bzip2-compressed data (joblib writes such pickles)", _REFIT_CURE),
    (0, b"\xfd7zXZ\x00", "xz-compressed data (joblib writes such pickles)", _REFIT_CURE),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data", "unpack it first; inside should be the folder that regraft saved"),
    (257, b"ustar", "a tar archive (old PyTorch or a packed folder)", "unpack it first, if it holds a folder regraft saved"),
    (0, b"<?xml", "an XML file (OpenVINO writes such models)", _REFIT_CURE),
    (0, b"<", "a web page or XML file", "download the model itself, not the page about it"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run git lfs pull in that repository"),
    (0, b"\xff\xd8\xff", "a JPEG image", "give the folder of a run first, then the images"),
    (0, b"\x89PNG", "a PNG image", "give the folder of a run first, then the images"),
)
# Protocols 2 to 5 start with PROTO; 0 and 1 with the opcode of their first object and all end with STOP ('.').
_PICKLE_PROTOCOL = re.compile(rb"\x80[\x00-\x09]")
_PICKLE_OPCODES = re.compile(rb"[(\]})lciIFGJKLMNSTUVXBCpqP]")
# ModelProto: ir_version (field 1), then another field of known number and wire type.
_ONNX = re.compile(rb"\x08[\x01-\x1e][\x12\x1a\x22\x2a\x32\x3a\x42]", re.DOTALL)


def recognise(head: bytes, last: bytes) -> tuple[str, str] | None:
    """What a file with these first and last bytes is and the cure, or None; for the message only, never for trust."""
    for offset, signature, what, cure in _SIGNATURES:
        if head.startswith(signature, offset):
            return what, cure
    if _PICKLE_PROTOCOL.match(head):
        return _PICKLE, _TORCH_CURE
    if _ONNX.match(head) and not head.startswith(b"\x00" * 4, 4):
        return "an ONNX model or another protocol buffer", _REFIT_CURE
    if last == b"." and _PICKLE_OPCODES.match(head):
        return _PICKLE, _TORCH_CURE
    return None
