"""The procedure, four verbs: plan -> draw -> calibrate -> verify; and the result, which carries settings and plan.

    settings    what a person chooses, and what contradicts what
    result      what came out, as values
    streams     residual streams, and the layers that end their branches
    neighbours  what stands before and after a layer: norms, gates, averages
    patterns    which layers and other tensors the patterns choose, and the std that each layer is to have
    baseline    the stds of an earlier run, as what a model is to have still
    absent      tensors without values: whether each gets some, and what is said of it
    planning    PLAN: the layers are found, once; nothing runs
    notes       where unit variance does not do what one might think
    prepare     sizes, data and indices looked at; a run that fails for the device's sake; what is to be said of one
    draw        DRAW: new weights, put where the file keeps them
    computed    weights that other constants are computed with
    fresh       usual starting values for the parameters beside the layers
    remaining   what a file still holds of what it learned
    scratch     arrays beyond the memory allowed go to a file; what batches give is joined
    execute     a calibration graph runs over the batches, stage by stage; once more where a mean is too large
    applying    what was measured -> scales, weights multiplied, biases that centre, statistics of norms
    procedure   `initialize`: the other verbs, and CALIBRATE itself
    measuring   VERIFY: `measure`, on a model as it is, or on the saved file
    rows        plan and records -> a row for each layer
    stripping   a model without the values of what may be learned
    params      the names of what is trained and what is frozen, for trainers

A layer's product z = W x, without what is added to it, is proportional to its weight: with s = target / std(z), the
graph multiplies what a layer gives by s, the layers after it see what they will see, and s W is the new weight.
"""

from onnx_lsuv import loaded_on_use

TYPE_CHECKING = False  # the methods that the command line's help lists do not wait for numpy
if TYPE_CHECKING:
    from onnx_lsuv.lsuv.measuring import measure, measure_before
    from onnx_lsuv.lsuv.notes import Note, guide
    from onnx_lsuv.lsuv.params import check_params, params_of, save_params, stage_params
    from onnx_lsuv.lsuv.planning import find, plan, require_layers
    from onnx_lsuv.lsuv.procedure import initialize
    from onnx_lsuv.lsuv.result import (
        GOOD,
        STATUSES,
        Change,
        LayerReport,
        Remaining,
        Result,
        RoleReport,
        SkippedReport,
        SumReport,
    )
    from onnx_lsuv.lsuv.settings import Settings, Targets
    from onnx_lsuv.lsuv.stripping import Architecture, without_values

__all__ = [
    "GOOD",
    "STATUSES",
    "Architecture",
    "Change",
    "LayerReport",
    "Note",
    "Remaining",
    "Result",
    "RoleReport",
    "Settings",
    "SkippedReport",
    "SumReport",
    "Targets",
    "check_params",
    "find",
    "guide",
    "initialize",
    "measure",
    "measure_before",
    "params_of",
    "plan",
    "require_layers",
    "save_params",
    "stage_params",
    "without_values",
]
__getattr__ = loaded_on_use(__name__, __all__, "settings result notes planning params procedure measuring stripping")
