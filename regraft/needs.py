"""Optional packages: asked for by name, and missed with the command that installs them."""

from importlib.util import find_spec

from regraft.errors import UsageError


def check_installed(*modules: str, extra: str, why: str) -> None:
    """Raise UsageError where one of `modules` cannot be imported; `why` is what wants them: "--to onnx"."""
    missing = [name.replace("_", "-") for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(
            expected=f"what {why} needs",
            got=f"{', '.join(missing)} not installed",
            fix=f"pip install 'regraft[{extra}]'",
        )
