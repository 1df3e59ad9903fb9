"""Linear probes: protocols, few-shot curves, layers; `xclf.probe` runs them."""

from xclf.probes._outputs import check_folder
from xclf.probes._part import draws, hold_out
from xclf.probes._probe import probe, run_probe
from xclf.probes._protocols import PROTOCOLS, Protocol
from xclf.probes._result import ProbeInterrupted, ProbeResult
from xclf.probes._scores import METRICS
from xclf.probes._tables import print_tables

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "ProbeInterrupted",
    "ProbeResult",
    "Protocol",
    "check_folder",
    "draws",
    "hold_out",
    "print_tables",
    "probe",
    "run_probe",
]
