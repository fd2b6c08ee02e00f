"""Calibration data: .npy, .npz, .safetensors, .pb files, folders of them, arrays, or random draws, as batches.

    inputs    which graph inputs need data, and how messages speak of them
    formats   suffix of a file -> its reader
    sources   the values of `--data [NAME=]PATH` -> stored arrays for each input
    npy       .npy (numpy.lib.format)
    npz       .npz (zip), unpacked row after row
    tensors   .safetensors and ONNX's TensorProto (.pb)
    stored    an array at rest: dtype and shape known, values read on demand, or mapped
    draw      random data, and the shapes for it
    values    which dtypes may become which, and one pass over the values: finite? mean, std, range
    plan      stored arrays -> pieces, one for each input and batch, checked against the model's shapes
    advice    what to do about data that do not fit
    memory    what of it is held in memory, and whether a batch fits there
    build     the three ways in, and the result: a sequence of batches

`build` calls the others: inputs -> sources (readers) -> plan -> values -> memory; advice where data do not fit.
A new format is a module with its reader (`stored.Reader`), and a row in `formats`.
Nothing is unpickled and nothing is executed. Headers are read first, and no more of a header than it may have; values
are read, mapped or unpacked batch by batch, so the data may be larger than memory as long as one batch fits.
"""

from onnx_lsuv import loaded_on_use

TYPE_CHECKING = False  # as typing has it, which takes longer to load than the rest
if TYPE_CHECKING:
    from onnx_lsuv.batches.build import Batch, Batches, from_arrays, from_paths, from_random
    from onnx_lsuv.batches.draw import parse_shape, parse_shapes
    from onnx_lsuv.batches.inputs import Input, inputs_of
    from onnx_lsuv.batches.sources import Source, files_of, inputs_given
    from onnx_lsuv.batches.stored import default_limit

__all__ = [
    "Batch",
    "Batches",
    "Input",
    "Source",
    "default_limit",
    "files_of",
    "from_arrays",
    "from_paths",
    "from_random",
    "inputs_given",
    "inputs_of",
    "parse_shape",
    "parse_shapes",
]

# The command's help asks `formats` for the suffixes, without NumPy and ONNX.
__getattr__ = loaded_on_use(__name__, __all__, "inputs stored draw sources build")
