"""Cuts the ONNX graph of a Piper voice so that a sentence can be computed piece by piece.

Piper voices are VITS models. Their graph has three stages:

    phoneme ids --acoustic--> prior --flow--> latent --decoder--> audio

The prior (`z_p` in VITS) has one column a frame, 256 samples in most voices. The flow and the
decoder are made of convolutions only, so each of their outputs depends on a bounded stretch of
frames, and a piece of audio can be computed from its frames and some context. Only the acoustic
stage, less than a fifth of the work, sees the whole sentence. It holds the graph's random draws.

The tensors are found by the names that PyTorch's exporter gives to the weights of
`piper.train.vits.models.SynthesizerTrn`.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import ceil

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

_FIRST_COUPLING = re.compile(r"flow\.flows\.(\d+)\.pre\.weight")
_DECODER_INPUT = "dec.conv_pre.weight"
_DECODER_SPEAKER = "dec.cond.weight"

_SPLITTING = {"Split", "Slice", "Gather"}
"""Operators between the prior and the first coupling: a flip and a split of the channels."""

_POINTWISE = {
    *("Add", "Sub", "Mul", "Div", "Neg", "Exp", "Tanh", "Sigmoid", "LeakyRelu", "Identity"),
    *("Split", "Slice", "Gather", "Concat", "Squeeze", "Unsqueeze", "Cast"),
}
"""Operators of the flow and the decoder that look at no other frame (they work on channels)."""


class NotStandardError(Exception):
    """The graph is not that of a standard VITS voice; it can only be run whole."""


@dataclass(frozen=True, slots=True)
class CutGraph:
    """The three stages of a voice as ONNX models, and what a piece needs around it.

    Attributes:
        acoustic: Takes the voice's own inputs, gives the prior [1, channels, frames], the durations
            in frames [1, 1, ids] and, with several speakers, the speaker's embedding.
        flow: Takes prior [1, channels, n], mask [1, 1, n] and embedding, gives latent, same shape.
        decoder: Takes latent [1, channels, n] and embedding, gives audio of `n * hop` samples.
        flow_context: Frames of prior that a frame of latent depends on, on either side.
        decoder_context: Frames of latent that a frame of audio depends on, on either side.
        hop: Samples a frame.
    """

    acoustic: bytes
    flow: bytes
    decoder: bytes
    flow_context: int
    decoder_context: int
    hop: int


def cut(model: ModelProto) -> CutGraph:
    """Cut a voice's graph before its flow and before its decoder.

    Args:
        model: The voice as exported by `piper.train.export_onnx`, of any quality, for one speaker
            or several. It is not changed.

    Raises:
        NotStandardError: The graph has not the tensors or the operators of a VITS voice.
    """
    graph = _Graph(model.graph)
    couplings = [name for name in graph.weights if _FIRST_COUPLING.fullmatch(name)]
    if not couplings:
        raise NotStandardError("it has no flow")
    # The flow runs backwards at inference: the coupling layer with the highest number comes first.
    first = max(couplings, key=lambda name: int(name.split(".")[2]))
    coupling = graph.reader(first)
    prior = coupling.input[0]
    while graph.made_by(prior).op_type in _SPLITTING:
        prior = graph.made_by(prior).input[0]
    mask = _mask(graph, coupling.output[0])
    durations = [node.output[0] for node in graph.nodes if node.op_type == "Ceil"]
    if len(durations) != 1:
        raise NotStandardError("its durations cannot be told from other tensors")
    latent = graph.reader(_DECODER_INPUT).input[0]
    audio = model.graph.output[0].name

    channels = graph.weights[_DECODER_INPUT].dims[1]
    stretch: dict[str, list[int | str]] = {prior: [1, channels, "frames"], mask: [1, 1, "frames"]}
    voice: dict[str, list[int | str]] = {}
    if _DECODER_SPEAKER in graph.weights:
        embedding = graph.reader(_DECODER_SPEAKER).input[0]
        voice = {embedding: [1, graph.weights[_DECODER_SPEAKER].dims[1], 1]}

    flow = graph.part(_inputs({**stretch, **voice}), [latent])
    decoder = graph.part(_inputs({latent: [1, channels, "frames"], **voice}), [audio])
    flow_context, same = _reach(flow, prior, latent)
    decoder_context, hop = _reach(decoder, latent, audio)
    if same != 1:
        raise NotStandardError("its flow changes the frame rate")
    acoustic = graph.part(model.graph.input, [prior, durations[0], *voice])
    return CutGraph(
        acoustic=_serialise(acoustic, model),
        flow=_serialise(flow, model),
        decoder=_serialise(decoder, model),
        flow_context=flow_context,
        decoder_context=decoder_context,
        hop=hop,
    )


def add_durations(model: ModelProto) -> bool:
    """Make the durations an output of a voice's whole graph, in place, as Piper's own patch does.

    Returns:
        Whether the graph gives them: as the second output that it had, or as the one `Ceil` in it.
    """
    outputs = model.graph.output
    if len(outputs) > 1:
        return True
    durations = [node.output[0] for node in model.graph.node if node.op_type == "Ceil"]
    if len(durations) != 1:
        return False
    outputs.append(helper.make_empty_tensor_value_info(durations[0]))
    return True


class _Graph:
    """An ONNX graph with its tensors looked up by name."""

    def __init__(self, graph: GraphProto) -> None:
        self.nodes: list[NodeProto] = list(graph.node)
        self.weights: dict[str, TensorProto] = {w.name: w for w in graph.initializer}
        self._maker = {name: node for node in self.nodes for name in node.output}

    def made_by(self, tensor: str) -> NodeProto:
        """The node whose output `tensor` is."""
        if tensor not in self._maker:
            raise NotStandardError(f"nothing makes {tensor}")
        return self._maker[tensor]

    def reader(self, weight: str) -> NodeProto:
        """The convolution that has `weight` for its kernel."""
        for node in self.nodes:
            if node.op_type == "Conv" and node.input[1] == weight:
                return node
        raise NotStandardError(f"no convolution has {weight}")

    def part(self, inputs: Iterable[ValueInfoProto], outputs: list[str]) -> GraphProto:
        """The smallest graph that makes `outputs` out of `inputs`."""
        inputs = list(inputs)
        given = {value.name for value in inputs}
        nodes: set[str] = set()
        weights: set[str] = set()
        todo = list(outputs)
        while todo:
            tensor = todo.pop()
            if not tensor or tensor in given:  # an optional input that is left out has no name
                continue
            if tensor in self.weights:
                weights.add(tensor)
                continue
            node = self.made_by(tensor)
            if node.output[0] not in nodes:
                nodes.add(node.output[0])
                todo.extend(node.input)
                todo.extend(self._captured(node))
        return helper.make_graph(
            [node for node in self.nodes if node.output[0] in nodes],
            "part",
            inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [weight for name, weight in self.weights.items() if name in weights],
        )

    def _captured(self, node: NodeProto) -> Iterable[str]:
        """The tensors of this graph that the branches of an `If` or the body of a `Loop` read."""
        for attribute in node.attribute:
            for inner in attribute.g.node:
                yield from (i for i in inner.input if i in self._maker or i in self.weights)
                yield from self._captured(inner)


def _mask(graph: _Graph, tensor: str) -> str:
    """The mask by which the first coupling layer multiplies `tensor`."""
    for node in graph.nodes:
        if node.op_type == "Mul" and tensor in node.input:
            return str(node.input[1 if node.input[0] == tensor else 0])
    raise NotStandardError("its flow has no mask")


def _inputs(shapes: Mapping[str, list[int | str]]) -> list[ValueInfoProto]:
    return [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    ]


def _serialise(part: GraphProto, model: ModelProto) -> bytes:
    whole = helper.make_model(
        part, opset_imports=model.opset_import, ir_version=model.ir_version, producer_name="parley"
    )
    serialised: bytes = whole.SerializeToString()
    return serialised


def _reach(part: GraphProto, source: str, sink: str) -> tuple[int, int]:
    """How far a sample of `sink` looks along the time axis of `source`.

    Follows each tensor from `source` on with its rate (samples for each frame of `source`) and how
    many of its own samples before and after an instant it depends on.

    Returns:
        Frames on either side, and samples of `sink` a frame.

    Raises:
        NotStandardError: An operator on the way is not known to have a bounded reach.
    """
    kernels = {weight.name: weight.dims for weight in part.initializer}
    kernels |= {
        node.output[0]: node.attribute[0].t.dims
        for node in part.node
        if node.op_type == "Constant" and node.attribute[0].HasField("t")
    }
    seen: dict[str, tuple[int, int, int]] = {source: (1, 0, 0)}
    for node in part.node:
        inputs = [seen[name] for name in node.input if name in seen]
        if not inputs or node.op_type == "Shape":  # a constant, or something like one
            continue
        rate = inputs[0][0]
        before, after = max(i[1] for i in inputs), max(i[2] for i in inputs)
        if node.op_type in {"Conv", "ConvTranspose"}:
            settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            width = settings.get("kernel_shape", kernels.get(node.input[1], ())[2:])
            if len(width) != 1:
                raise NotStandardError(f"{node.name} is not a convolution along time")
            span = (width[0] - 1) * settings.get("dilations", [1])[0]
            pad = settings.get("pads", [0, 0])
            stride = settings.get("strides", [1])[0]
            if node.op_type == "Conv":
                if stride != 1 or sum(pad) != span:
                    raise NotStandardError(f"{node.name} changes the length")
                before, after = before + pad[0], after + pad[1]
            else:
                if span + 1 - sum(pad) != stride or "output_padding" in settings:
                    raise NotStandardError(f"{node.name} does not multiply the length")
                # Sample t is made of inputs (t + pad - span) / stride to (t + pad) / stride.
                rate *= stride
                before, after = before * stride + span - pad[0], after * stride + pad[0]
        elif node.op_type not in _POINTWISE:
            raise NotStandardError(f"{node.op_type} may look at any frame")
        for name in node.output:
            seen[name] = (rate, before, after)
    if sink not in seen:
        raise NotStandardError(f"{sink} does not depend on {source}")
    rate, before, after = seen[sink]
    return ceil(max(before, after) / rate), rate
