"""A finished run as one self-contained page for people, the same for programs, and a model card."""

from regraft.report.content import Overlays, ReportContent, gather
from regraft.report.pixel_content import PixelPictures, PixelReport
from regraft.report.write import ReportFiles, rebuild_report, write_pixel_report, write_report

__all__ = [
    "Overlays",
    "PixelPictures",
    "PixelReport",
    "ReportContent",
    "ReportFiles",
    "gather",
    "rebuild_report",
    "write_pixel_report",
    "write_report",
]
