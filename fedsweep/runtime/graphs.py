"""TFF's TensorFlow computations as plain callables in this process."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_federated as tff
from google.protobuf import message as protobuf
from tensorflow.python.eager import context
from tensorflow_federated.python.core.impl.computation import computation_impl

from fedsweep.runtime import types

_imported = itertools.count()


def as_function(computation: tff.Computation) -> Callable[..., Sequence[tf.Tensor]]:
    """A `tff.tensorflow.computation` as a function from flat tensors to flat tensors.

    Arguments and results come in the order of the computation's type, structures flattened; a sequence is one variant
    tensor (`tf.data.experimental.to_variant`).
    """
    proto = computation_impl.ConcreteComputation.get_proto(computation).tensorflow
    graph = tf.compat.v1.GraphDef()
    proto.graph_def.Unpack(graph)
    _rename_functions(graph, f"_{next(_imported)}")
    parameters = _tensor_names(proto.parameter) if proto.HasField("parameter") else []
    results = _tensor_names(proto.result)

    def run(*arguments: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(
            graph, input_map=dict(zip(parameters, arguments, strict=True)), return_elements=results, name=""
        )

    # With a signature a call goes straight to TensorFlow. (A function made with `prune` first tries another way, fails,
    # and prints all its arguments into the message that nobody sees: 3 to 15 ms a call.)
    function = tf.compat.v1.wrap_function(run, _specs(computation.type_signature.parameter))
    names = [inner.signature.name for inner in graph.library.function]
    weakref.finalize(function, _forget, names).atexit = False
    return function


def _forget(names: Sequence[str]) -> None:
    """Removes the functions that a graph has called: TensorFlow itself would keep them as long as the process lives."""
    runtime = context.context()
    for name in names:
        if runtime.has_function(name):
            runtime.remove_function(name)


def _rename_functions(graph: tf.compat.v1.GraphDef, suffix: str) -> None:
    """Computations compiled apart reuse names for their functions, which one TensorFlow runtime refuses."""
    renamed = {function.signature.name: function.signature.name + suffix for function in graph.library.function}

    def visit(message: protobuf.Message) -> None:
        for field, value in message.ListFields():
            if field.type == field.TYPE_MESSAGE:
                if field.message_type.GetOptions().map_entry:
                    values = value.values() if isinstance(next(iter(value.values())), protobuf.Message) else ()
                else:
                    values = value if field.label == field.LABEL_REPEATED else (value,)
                for inner in values:
                    visit(inner)
        if isinstance(message, tf.compat.v1.NodeDef):
            message.op = renamed.get(message.op, message.op)
        elif isinstance(message, tf.compat.v1.NameAttrList):
            message.name = renamed.get(message.name, message.name)
        elif isinstance(message, tf.compat.v1.AttrValue) and message.WhichOneof("value") == "s":
            # some operations carry the name of a function as a plain string
            message.s = renamed.get(message.s.decode("latin1"), "").encode() or message.s
        elif type(message).__name__ == "FunctionDef":
            message.signature.name = renamed[message.signature.name]
        elif type(message).__name__ == "GradientDef":
            message.function_name = renamed.get(message.function_name, message.function_name)
            message.gradient_func = renamed.get(message.gradient_func, message.gradient_func)

    visit(graph)


def _specs(parameter: tff.Type | None) -> list[tf.TensorSpec]:
    """The specs of a computation's arguments, in flattened order."""
    leaves = [] if parameter is None else types.leaves(parameter)
    return [
        tf.TensorSpec([], tf.variant) if isinstance(leaf, tff.SequenceType) else tf.TensorSpec(leaf.shape, leaf.dtype)
        for leaf in leaves
    ]


def _tensor_names(binding: protobuf.Message) -> list[str]:
    """The names of a TFF binding's tensors, in flattened order."""
    kind = binding.WhichOneof("binding")
    if kind == "struct":
        return [name for element in binding.struct.element for name in _tensor_names(element)]
    if kind == "sequence":
        return [binding.sequence.variant_tensor_name]
    return [binding.tensor.tensor_name] if kind == "tensor" else []
