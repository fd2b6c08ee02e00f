"""Calibration data: files, folders of them, images, functions, arrays and loaders, or random draws, as batches.

    inputs    which graph inputs need data, and how messages speak of them
    formats   suffix of a file -> its reader
    folders   what a folder holds: a file a batch, images, test sets of ONNX
    sources   the values of `--data [NAME=]PATH` -> stored arrays for each input
    calls     what a function gives: `--data module:function`
    npy       .npy (numpy.lib.format)
    npz       .npz (zip), unpacked row after row
    tensors   .safetensors and ONNX's TensorProto (.pb)
    tables    .csv, and which columns are for which input
    parquet   .parquet
    pt        .pt, tensors of PyTorch
    images    images, a file a sample, brought to the model's layout, size and range
    stored    an array at rest: dtype and shape known, values read on demand, or mapped
    stream    what people hold in Python: arrays, batches, loaders, readers
    draw      random data, and the shapes for it
    values    which dtypes may become which, and one pass over the values: finite? mean, std, range
    plan      stored arrays -> pieces, one for each input and batch, checked against the model's shapes
    advice    what to do about data that do not fit
    memory    what of it is held in memory, and whether a batch fits there
    build     the three ways in, and the result: a sequence of batches

`build` calls the others: inputs -> sources (readers), stream -> plan -> values -> memory; advice where data do not fit.
A new format is a module with its reader (`stored.Reader`), and a row in `formats`.
Nothing is unpickled, and nothing is executed but a function that was named. Headers are read first, and no more of a
header than it may have; values are read, mapped or unpacked batch by batch, so the data may be larger than memory as
long as one batch fits.
"""

from onnx_lsuv import loaded_on_use

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from onnx_lsuv.batches.build import Batch, Batches, from_arrays, from_paths, from_random
    from onnx_lsuv.batches.draw import parse_shape, parse_shapes
    from onnx_lsuv.batches.folders import files_of
    from onnx_lsuv.batches.images import Preparation, parse_preparation
    from onnx_lsuv.batches.inputs import Input, inputs_of
    from onnx_lsuv.batches.sources import Source, inputs_given
    from onnx_lsuv.batches.stored import Layout, Load, default_limit, rows_of
    from onnx_lsuv.batches.stream import Data

__all__ = [
    "Batch",
    "Batches",
    "Data",
    "Input",
    "Layout",
    "Load",
    "Preparation",
    "Source",
    "default_limit",
    "files_of",
    "from_arrays",
    "from_paths",
    "from_random",
    "inputs_given",
    "inputs_of",
    "parse_preparation",
    "parse_shape",
    "parse_shapes",
    "rows_of",
]

# The command's help asks `formats` for the suffixes, without NumPy and ONNX.
__getattr__ = loaded_on_use(__name__, __all__, "inputs stored stream draw images folders sources build")
