"""A study on one page that needs nothing else: `report.html`, and `report.pdf` if asked for."""

from swin_ext.inference.report.page import write_report

__all__ = ['write_report']
