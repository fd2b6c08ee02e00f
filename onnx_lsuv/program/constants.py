"""The constants of a file, gathered while it is expanded: initializers, Constant and ConstantOfShape nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from onnx import AttributeProto, NodeProto, TensorProto

from onnx_lsuv.model import Model, Site, Step, check, function_of, sites, unused
from onnx_lsuv.program.program import DEFAULT_DOMAINS, Constant, integers
from onnx_lsuv.program.protos import tensor_of


@dataclass(slots=True)
class Table:
    """The constants found so far, and the names given out."""

    model: Model
    constants: dict[str, Constant] = field(default_factory=dict)
    by_site: dict[Site, str] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)
    tried: dict[str, int] = field(default_factory=dict)

    def unique(self, name: str) -> str:
        """Return the name itself, or with a suffix where another scope has it already."""
        free = unused(name, self.taken, tried=self.tried)
        self.taken.add(free)
        return free

    def initializer(self, tensor: TensorProto, site: Site, scope: str) -> str:
        """Enter an initializer; return its unique name."""
        return self._enter(_constant(tensor, tensor.name, scope, "initializer", site))

    def node(
        self, proto: NodeProto, attributes: Mapping[str, AttributeProto], site: Site, scope: str, names: dict[str, str]
    ) -> bool:
        """Enter what a node holds, where it holds a constant and no more; say whether it does."""
        if proto.domain not in DEFAULT_DOMAINS or len(proto.output) != 1:
            return False
        found = None
        if proto.op_type == "ConstantOfShape" and proto.input:
            found = self._of_shape(proto, attributes, site, scope, names[proto.input[0]])
        elif proto.op_type == "Constant" and "sparse_value" not in attributes:
            found = _of_value(proto, attributes, site, scope)
        if found is not None:
            names[proto.output[0]] = self._enter(found)
        return found is not None

    def _of_shape(
        self, proto: NodeProto, attributes: Mapping[str, AttributeProto], site: Site, scope: str, shape: str
    ) -> Constant | None:
        dims = integers(self.constants, shape)
        if dims is None:
            return None
        elem_type = attributes["value"].t.data_type if "value" in attributes else TensorProto.FLOAT
        node = NodeProto()
        node.CopyFrom(proto)
        node.input[0] = shape
        label = proto.output[0]
        return Constant(label, label, scope, proto.op_type, elem_type, dims, site, None, node)

    def _enter(self, constant: Constant) -> str:
        """Enter a constant, once for each place in the file, and return its unique name."""
        site, scope = constant.site, constant.scope
        if site is not None and site in self.by_site:
            return self.by_site[site]
        if site is not None and (index := function_of(site)) is not None:
            # A function's own, however many calls lead to it.
            scope = f"function:{self.model.proto.functions[index].name}"
        if site is not None and constant.tensor is not None:
            check(self.model, site)
        name = self.unique(constant.label)
        if constant.node is not None:
            constant.node.output[0] = name
        self.constants[name] = replace(constant, name=name, scope=scope)
        if site is not None:
            self.by_site[site] = name
        return name


def _constant(tensor: TensorProto, label: str, scope: str, origin: str, site: Site | None) -> Constant:
    return Constant(label, label, scope, origin, tensor.data_type, tuple(tensor.dims), site, tensor)


def _of_value(proto: NodeProto, attributes: Mapping[str, AttributeProto], site: Site, scope: str) -> Constant | None:
    for j, stored in enumerate(proto.attribute):
        attribute = attributes[stored.name]
        tensor = tensor_of(attribute)
        if tensor is not None:
            place = (*site, Step(sites.NODE_ATTRIBUTE, j))
            if attribute.name == "value":
                place = (*place, Step(sites.ATTRIBUTE_TENSOR))
            # The value may be an argument of the call; it has no place in the function's body.
            return _constant(tensor, proto.output[0], scope, "Constant", None if stored.ref_attr_name else place)
    return None
