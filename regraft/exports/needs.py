"""Optional packages: asked for by name, and missed with the command that installs them."""

from importlib.util import find_spec

from regraft.errors import UsageError


def check_installed(*packages: str, why: str) -> None:
    """Raise UsageError for the first of `packages` that cannot be imported; `why` is what wants it: "--to onnx"."""
    for name in packages:
        if find_spec(name) is None:
            raise UsageError(
                expected=f"the package {name}, which {why} needs",
                got="it is not installed",
                fix="pip install 'regraft[export]'",
            )
