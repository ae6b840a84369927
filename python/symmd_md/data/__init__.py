"""Structures and labels: reading, checking, storing, splitting, and turning them into graphs."""

from symmd_md.data.collection import FrameCollection
from symmd_md.data.dataset import GraphDataset
from symmd_md.data.frame import Frame, checked_frame
from symmd_md.data.graph import build_graph, collate, random_rotation
from symmd_md.data.keys import LabelKeys
from symmd_md.data.neighbours import neighbour_list
from symmd_md.data.prepare import DataConfig, PreparedData, prepare
from symmd_md.data.reading import frame_from_atoms, iterate_frames, label_keys_found, read_frames
from symmd_md.data.statistics import DataSummary, SetStatistics, set_statistics, set_summary
from symmd_md.data.store import FrameStore, convert, write_store

__all__ = [
    "DataConfig",
    "DataSummary",
    "Frame",
    "FrameCollection",
    "FrameStore",
    "GraphDataset",
    "LabelKeys",
    "PreparedData",
    "SetStatistics",
    "build_graph",
    "checked_frame",
    "collate",
    "convert",
    "frame_from_atoms",
    "iterate_frames",
    "label_keys_found",
    "neighbour_list",
    "prepare",
    "random_rotation",
    "read_frames",
    "set_statistics",
    "set_summary",
    "write_store",
]
