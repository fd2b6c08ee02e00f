"""What trains where: which of a file's weights each importer makes trainable parameters, and what blocks the others.

    table.json  what is known of each importer, with version and date; `tests/frameworks` makes it
    table       reads it
    shapes      lengths that follow from a model's inputs and nodes
    skeleton    walks over the file, and what it says
    forms       the file as it is saved
    expected    the file as `--portable` is expected to leave it
    traits      what of a form some importer stumbles over, or handles in a way worth knowing
    exporting   another export that an importer would train
    reading     what each importer makes of a form

A plan becomes two forms, each form its traits, and each importer's row says which traits stop it:

    trainable = 0 if a trait that it refuses, or an operator that it lacks, is there; else weights - blocked weights

What is expected of `--portable` is never more than the portable form, once it is made, gives.
"""

from onnx_lsuv.importers.reading import Finding, Forecast, Reading, forecast
from onnx_lsuv.importers.table import IMPORTERS, KINDS, Importer

__all__ = ["IMPORTERS", "KINDS", "Finding", "Forecast", "Importer", "Reading", "forecast"]
