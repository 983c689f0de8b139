"""Monitoring of drift in what a reward model scores: alarms valid under continuous looking."""

from typing import TYPE_CHECKING

from armorm.lazy import lazy_names

if TYPE_CHECKING:
    from armorm.evaluation.monitoring.alarms import Alarm, MovedResponse, NearRow, Shift, Stream
    from armorm.evaluation.monitoring.drift import DriftMonitor
    from armorm.evaluation.monitoring.observations import Observation
    from armorm.evaluation.monitoring.options import MonitorOptions, ReportingOptions
    from armorm.evaluation.monitoring.reporting import DriftReporter
    from armorm.evaluation.monitoring.scored_files import MonitorReport, monitor_file

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "armorm.evaluation.monitoring.alarms": (
            "Alarm",
            "MovedResponse",
            "NearRow",
            "Shift",
            "Stream",
        ),
        "armorm.evaluation.monitoring.drift": ("DriftMonitor",),
        "armorm.evaluation.monitoring.observations": ("Observation",),
        "armorm.evaluation.monitoring.options": ("MonitorOptions", "ReportingOptions"),
        "armorm.evaluation.monitoring.reporting": ("DriftReporter",),
        "armorm.evaluation.monitoring.scored_files": ("MonitorReport", "monitor_file"),
    },
)

__all__ = [
    "Alarm",
    "DriftMonitor",
    "DriftReporter",
    "MonitorOptions",
    "MonitorReport",
    "MovedResponse",
    "NearRow",
    "Observation",
    "ReportingOptions",
    "Shift",
    "Stream",
    "monitor_file",
]
