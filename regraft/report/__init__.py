"""A finished run as one self-contained page for people."""

from regraft.report.html import write_report

__all__ = ["write_report"]
