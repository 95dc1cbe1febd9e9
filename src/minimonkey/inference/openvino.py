"""OpenVINO in torch's place for what takes longest on a CPU: the vision encoder, and reading a prompt.

Both are traced from our own modules with their weights as they are then, and answer as those would, up to rounding. Whatever else
is asked of the modules (gradients, hidden states, a prompt with padding, tokens behind a filled cache) stays with torch.

    shapes: T tiles, S tile side in pixels, L length of a prompt, D hidden size, R rotated channels
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache
from transformers.modeling_outputs import BaseModelOutputWithPast, BaseModelOutputWithPooling

from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.inference.signal_stack import signal_stack_kept
from minimonkey.language_model.attention import REPEATED
from minimonkey.language_model.layers import CACHE, rotation, under_either_name, window
from minimonkey.memory import enough_memory

SHORTEST = 64
"""Prompts of fewer tokens are left to torch: there is nothing to win."""
READABLE = ("llama", "phi3", "qwen2", "qwen3")
"""Kinds of language models that are nothing but their layers and a norm; others scale or mix in between."""
LESS = "leave engine out, which keeps the weights once more, or lower the pyramid's budgets"


def use_openvino(model: nn.Module) -> None:
    """Let OpenVINO compute the encoder and the first reading of prompts of a `MiniMonkeyForConditionalGeneration`, from now on.

    Takes seconds, and as much memory again as the two have weights. In bfloat16 it computes in bfloat16, otherwise in float32. Once
    more takes the weights as they are by then; threads may ask at once. Raises MissingExtraError without OpenVINO, UsageError for a
    model that isn't on a CPU, has no plain weights or can't be traced; the model then stays as it was.
    """
    places = {str(parameter.device.type) for parameter in model.parameters()}
    if places != {"cpu"} or model.dtype not in (torch.float32, torch.bfloat16) or getattr(model, "is_quantized", False):
        found = f"{model.dtype} on {' and '.join(sorted(places))}"
        raise UsageError(
            f"engine='openvino' computes float32 or bfloat16 weights, not quantized ones, on a CPU; this model has {found}: "
            "leave engine out"
        )
    tower, text = model.model.vision_tower, model.model.language_model
    kind = text.config.model_type
    if kind not in READABLE:
        raise UsageError(f"engine='openvino' reads with {', '.join(READABLE)}; this language model is {kind}: leave engine out")
    tower.forward, text.forward = Encoder(tower), Reader(text)  # both are there before either is put in place


def torch_forward(module: nn.Module) -> Callable[..., Any]:
    """The module's own forward, also where `use_openvino` has put one of ours in front of it."""
    forward = module.forward
    return forward.torch_forward if isinstance(forward, (Encoder, Reader)) else forward


class Encoder:
    """In place of `vision_tower.forward`: pixel values [T, 3, S, S] to an output with `last_hidden_state`."""

    def __init__(self, tower: nn.Module) -> None:
        side = tower.config.image_size[0]
        self.torch_forward, self._layers = torch_forward(tower), list(tower.encoder.layer)
        example = torch.zeros(1, 3, side, side, dtype=tower.dtype)
        self._run = compiled(_Encoded(tower), (example,), [[-1, 3, side, side]], tower.dtype)

    def __call__(self, pixel_values: torch.Tensor, **kwargs: Any) -> BaseModelOutputWithPooling:
        watched = any(layer._forward_pre_hooks for layer in self._layers)
        # transformers says which layer's output is wanted by "output_hidden_states"; -1 is the last one's, which there always is.
        asked = kwargs.get("output_hidden_states") not in (None, False, -1)
        asked = asked or kwargs.get("output_attentions") or kwargs.get("bool_masked_pos") is not None
        if watched or asked or torch.is_grad_enabled():
            return self.torch_forward(pixel_values=pixel_values, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self._run(pixel_values)[0])


class Reader:
    """In place of `language_model.forward`, for the first reading of one prompt without padding; it fills the cache."""

    def __init__(self, text: nn.Module) -> None:
        self.torch_forward, self._text = torch_forward(text), text
        self._windows = [window(text, index) for index in range(len(text.layers))]
        example = torch.zeros(1, 8, text.config.hidden_size, dtype=text.dtype)
        turned = rotation(text, example, torch.arange(8)[None])
        shapes = [[1, -1, part.shape[-1]] for part in (example, *turned)]
        own, text.config._attn_implementation = text.config._attn_implementation, REPEATED  # causal without a mask; "eager" isn't
        try:
            self._run = compiled(_Read(text), (example, *turned), shapes, text.dtype)
        finally:
            text.config._attn_implementation = own

    @under_either_name
    def __call__(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        if inputs_embeds is None or not self._can_read(inputs_embeds, attention_mask, position_ids, cache, kwargs):
            return self.torch_forward(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                use_cache=use_cache,
                **{CACHE: cache},
                **kwargs,
            )
        if position_ids is None:
            position_ids = torch.arange(inputs_embeds.shape[1])[None]
        hidden, *keys_and_values = self._run(inputs_embeds, *rotation(self._text, inputs_embeds, position_ids))
        use_cache = self._text.config.use_cache if use_cache is None else use_cache
        cache = DynamicCache(config=self._text.config) if use_cache and cache is None else cache
        if cache is not None:
            for index in range(len(self._text.layers)):
                cache.update(*keys_and_values[2 * index : 2 * index + 2], index)
        return BaseModelOutputWithPast(last_hidden_state=hidden, **{CACHE: cache if use_cache else None})

    def _can_read(self, embeddings: torch.Tensor, mask: Any, positions: Any, cache: Any, others: dict[str, Any]) -> bool:
        if torch.is_grad_enabled() or len(embeddings) > 1 or embeddings.shape[1] < SHORTEST:
            return False
        asked = any(others.get(name) for name in ("output_hidden_states", "output_attentions"))
        if asked or any(layer._forward_pre_hooks for layer in self._text.layers):
            return False
        if any(seen is not None and seen < embeddings.shape[1] for seen in self._windows):
            return False
        if mask is None:  # gaps between positions may then be borders between texts that were packed into one row
            plain = positions is None or bool((positions.diff() == 1).all())
        else:
            plain = isinstance(mask, torch.Tensor) and mask.ndim == 2 and bool(mask.all())
        return plain and (cache is None or (isinstance(cache, DynamicCache) and cache.get_seq_length() == 0))


class _Encoded(nn.Module):
    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower, self.torch_forward = tower, torch_forward(tower)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.torch_forward(pixel_values).last_hidden_state


class _Read(nn.Module):
    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> tuple[torch.Tensor, ...]:
        kept = _Kept()
        for layer in self.text.layers:  # no mask: that is causal attention
            hidden = layer(hidden, attention_mask=None, position_embeddings=(cosines, sines), **{CACHE: kept})
        return self.text.norm(hidden), *kept


class _Kept(list[torch.Tensor]):
    """What a layer takes for a cache that was empty: keys and values of each layer in turn."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.extend((keys, values))
        return keys, values


@contextmanager
def _explained(doing: str, *failures: type[Exception]) -> Iterator[None]:
    """These failures become a UsageError of one line, or a ShortOfMemoryError that says at what memory ran out."""
    try:
        with enough_memory(doing, LESS):
            yield
    except failures as error:
        cause = error.__cause__ or error  # what the tracer stumbled over; its own error is advice for programmers
        lines = (line.strip() for line in str(cause).splitlines())
        said = " ".join(line for line in lines if not line.endswith(":"))  # OpenVINO's headings: places in its source
        reason = said[:160].strip() or type(cause).__name__
        raise UsageError(f"this model can't run under engine='openvino' ({reason}): leave engine out") from error


def compiled(
    module: nn.Module, example: tuple[torch.Tensor, ...], shapes: list[list[int]], dtype: torch.dtype
) -> Callable[..., list[torch.Tensor]]:
    """`module`, traced with `example` and compiled by OpenVINO for inputs of these shapes (-1: any): tensors in, tensors out.

    Inputs, outputs and arithmetic are in `dtype`; the weights are the module's, as they are now. Calls from several threads take
    turns. Raises MissingExtraError without OpenVINO, UsageError for a module that can't be traced, converted, compiled or run,
    ShortOfMemoryError where memory doesn't hold the weights once more.
    """
    try:
        from openvino import frontend
    except ImportError as error:
        raise MissingExtraError("openvino", "openvino", "engine='openvino'") from error
    failures = ("General", "Initialization", "NotImplemented", "OpConversion", "OpValidation")
    with _explained("compiling for OpenVINO", RuntimeError, *(getattr(frontend, f"{name}Failure") for name in failures)):
        program = _program(module, example, shapes, dtype)
    turn = threading.Lock()  # a program keeps the tensors of one run; two at once would have to share the threads anyway

    def run(*tensors: torch.Tensor) -> list[torch.Tensor]:
        inputs = [tensor.detach().float().contiguous().numpy() for tensor in tensors]
        with turn, _explained("answering", RuntimeError):
            results = program(inputs, share_inputs=True)
        return [torch.from_numpy(results[port]).to(dtype) for port in program.outputs]

    return run


@contextmanager
def _unwarned() -> Iterator[None]:
    """Without what tracers warn of: all that they take for constant, and, looking at every property, a loss that isn't there."""
    theirs, nothing = logging.getLogger("transformers.modeling_utils"), lambda record: False
    theirs.addFilter(nothing)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.removeFilter(nothing)


def _program(module: nn.Module, example: tuple[torch.Tensor, ...], shapes: list[list[int]], dtype: torch.dtype) -> Any:
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), _unwarned():
        # Not openvino.convert_model, which does the same and reports it to its makers over the network.
        frontend = FrontEndManager().load_by_framework("pytorch")
        traced = TorchScriptPythonDecoder(module.eval(), example_input=example)  # has to outlive the conversion
        graph = frontend.convert(frontend.load(traced))
    graph.reshape({port: openvino.PartialShape(shape) for port, shape in zip(graph.inputs, shapes, strict=True)})
    borders = openvino.preprocess.PrePostProcessor(graph)  # NumPy, which stands between, knows no bfloat16
    for border in (*map(borders.input, range(len(graph.inputs))), *map(borders.output, range(len(graph.outputs)))):
        border.tensor().set_element_type(openvino.Type.f32)
    graph = borders.build()
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32", "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
    with signal_stack_kept():
        return openvino.Core().compile_model(graph, "CPU", settings)
