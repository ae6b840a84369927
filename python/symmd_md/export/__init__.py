"""Export: the one file that passes from training to the engine (docs/model_file.md)."""

from symmd_md.export.model_file import (
    ModelFile,
    TabulatedRadial,
    model_file_bytes,
    network_from_model_file,
    read_model_file,
    write_model_file,
)

__all__ = [
    "ModelFile",
    "TabulatedRadial",
    "model_file_bytes",
    "network_from_model_file",
    "read_model_file",
    "write_model_file",
]
