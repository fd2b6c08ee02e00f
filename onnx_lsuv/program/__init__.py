"""The model as ONNX Runtime executes it: functions expanded, one flat name space, constants in one table.

    program           Program, Body, Node, Constant: what the model is then, and who makes and reads what in it
    expansion         a model -> its Program: scopes in each other, functions called
    signature         ... what an operator's definition demands of a node
    order             ... each node after those it reads from
    constants         ... initializers, Constant and ConstantOfShape nodes, gathered
    loops             ... what a loop hands on unchanged comes from outside
    sequences         ... a SequenceMap is a Loop
    unfuse            ... fused operators taken apart
    index             ... what is known of the whole
    readings          where in the file a constant is read that is read several times, and by which module
    static_integers   shapes and bounds that a graph computes, as far as they are known before any data
    folding           ... the arithmetic for it, an operator a row
    protos            what a node's, a graph's or a tensor's protobuf says

Every name stands for one value, and each value is made by one node, so that what looks for layers, and what inserts
statistics, treats the main graph, a branch, a loop and a function alike.
"""

from onnx_lsuv.program.expansion import expand
from onnx_lsuv.program.program import Body, Constant, Node, Program, known, stored, tensor_type, walk

__all__ = ["Body", "Constant", "Node", "Program", "expand", "known", "stored", "tensor_type", "walk"]
