"""OpenVINO in torch's place for what takes longest on a CPU: the vision encoder, and reading a prompt.

Both are traced from copies of the network's own modules that share its weights, and answer as those would, up to rounding. The
network isn't touched. What changes in its weights afterwards is noticed, and compiled anew; whatever is put round its modules
(hooks, adapters, training) is left to torch, as are several prompts at once, padding, and tokens behind a filled cache.

    shapes: T tiles, S tile side in pixels, N image tokens a tile, L length of a prompt, K its tokens after compression,
            D hidden size
"""

from __future__ import annotations

import copy
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import DynamicCache, InternVLModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from minimonkey.compression.compressed_prompt import CompressedPrompt, ShortenedPrompt
from minimonkey.compression.prefill import layers_before_pruning
from minimonkey.compression.spans import Selection
from minimonkey.errors import MissingExtraError, UsageError
from minimonkey.inference.backend import TorchBackend
from minimonkey.inference.prefix_cache import sees_all
from minimonkey.inference.signal_stack import signal_stack_kept
from minimonkey.language_model.attention import REPEATED
from minimonkey.language_model.kv_cache import GrowingCache
from minimonkey.language_model.layers import CACHE, rotary_cos_sin
from minimonkey.memory import HINTS, explain_out_of_memory
from minimonkey.models.minimonkey.backbone import PICTURE_INPUTS, MiniMonkeyModel, has_tokens
from minimonkey.models.minimonkey.modeling import MiniMonkeyForConditionalGeneration
from minimonkey.models.minimonkey.vision_features import distinct_tiles

logger = logging.getLogger(__name__)
MIN_PROMPT_TOKENS = 64
"""Shorter prompts are left to torch: there is nothing to win."""
TEXT_MODELS = ("llama", "phi3", "qwen2", "qwen3")
"""Kinds of language models that are nothing but their layers and a norm; others scale or mix in between."""
OWN_CACHE = ("cache_implementation", "prefill_chunk_size", "output_hidden_states", "output_attentions")
"""Settings of `generate` under which torch has to read prompts by itself, as without a cache (`use_cache=False`)."""
KNOWN_MODULES = ("torch", "transformers", "minimonkey")
"""Packages whose modules do the same at each call; those of others, such as peft's adapters, can be switched."""
HARMLESS_HOOKS = ("transformers.utils.output_capturing",)
"""Where hooks come from that transformers leaves in modules, and that only look."""
SAMPLE = 64
"""Numbers of each tensor that are compared to tell whether it was changed behind torch's back, through `.data`."""


class OpenVINOBackend(TorchBackend):
    """Encoder, projector and the language model's layers, compiled by OpenVINO. Threads may ask at once."""

    def __init__(self, network: MiniMonkeyForConditionalGeneration) -> None:
        """Compile; that takes seconds, and as much memory again as those parts have weights.

        Args:
            network: on a CPU, in bfloat16 or float32, in which OpenVINO computes then.

        Raises:
            MissingExtraError: OpenVINO isn't installed.
            UsageError: the network isn't on a CPU, has no plain weights, or can't be traced.
            ShortOfMemoryError: memory doesn't hold the weights once more.
        """
        super().__init__(network)
        self._lock = threading.Lock()
        self._state = _state(network.model)
        self._encoder, self._prefill = _compiled_parts(network)

    def __deepcopy__(self, memo: dict[int, Any]) -> OpenVINOBackend:
        """A copy compiles its own network."""
        return type(self)(copy.deepcopy(self.network, memo))

    @torch.no_grad()
    def encode(self, tiles: torch.Tensor, *, cls_attention: bool = False) -> BaseModelOutputWithPooling:
        """As TorchBackend; the class token's attention is torch's."""
        if cls_attention or not self._is_ready():
            return super().encode(tiles, cls_attention=cls_attention)
        first, index = distinct_tiles(tiles)
        features = [self._encoder(part)[0] for part in tiles[first].split(self.network.model.tile_batch)]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(features)[index])

    @torch.no_grad()
    def read(self, inputs: dict[str, Any]) -> tuple[DynamicCache, CompressedPrompt | None]:
        """As TorchBackend."""
        prompt = self._prompt(inputs) if self._is_ready() else None
        if prompt is None:
            return super().read(inputs)
        self._fill(inputs[CACHE], prompt, prompt.ids.shape[1])
        return inputs[CACHE], prompt.compressed

    @torch.no_grad()
    def write(self, inputs: dict[str, Any], settings: dict[str, Any], selections: list[Selection]) -> torch.Tensor:
        """As TorchBackend: the prompt but its last token is read here, the answer is written by torch."""
        if not self._is_ready():
            return super().write(inputs, settings, selections)
        inputs = self._encoded(inputs)
        plain = settings.get("use_cache") is not False and not any(settings.get(name) for name in OWN_CACHE)
        prompt = self._prompt(inputs) if plain else None
        if prompt is None:
            return super().write(inputs, settings, selections)
        cache, length = inputs.get(CACHE, GrowingCache()), prompt.ids.shape[1]
        self._fill(cache, prompt, length - 1)  # torch reads the last token: it writes what follows
        if prompt.compressed is not None:
            selections += prompt.compressed.selections
        written = self.network.generate(
            prompt.ids,
            attention_mask=torch.ones_like(prompt.ids),
            compressed_prompt=prompt.compressed,
            **{CACHE: cache},
            **settings,
        )
        return torch.cat((inputs["input_ids"], written[:, length:]), dim=1)

    def _prompt(self, inputs: dict[str, Any]) -> _Prompt | None:
        """What the language model reads of one prompt of which it has read nothing; None where torch has to read."""
        model, ids, spec = self.network.model, inputs["input_ids"], inputs.get("compression")
        if "compressed_prompt" in inputs or has_tokens(inputs.get(CACHE)):
            return None
        if len(ids) > 1 or ids.shape[1] < MIN_PROMPT_TOKENS or not inputs["attention_mask"].all():
            return None
        if spec is not None and layers_before_pruning(spec):
            return None
        if not sees_all(model.language_model, ids.shape[1]):
            return None
        pictures = {name: inputs[name] for name in PICTURE_INPUTS if name in inputs}
        compressed = None if spec is None else model.compress(spec, ids, **pictures)
        if compressed is None:
            embeddings = model.embed(ids, (inputs.get("mm_encoder_outputs") or {}).get("image"))
            return _Prompt(ids, embeddings, torch.arange(ids.shape[1])[None], None)
        assert isinstance(compressed, ShortenedPrompt)  # whoever reads whole prompts first was left to torch
        kept = compressed.ids(ids, self.network.config.text_config.pad_token_id or 0)
        return _Prompt(kept, compressed.embeddings, compressed.positions, compressed)

    def _fill(self, cache: DynamicCache, prompt: _Prompt, length: int) -> None:
        """Read the first tokens of a prompt into an empty cache."""
        cos_sin = rotary_cos_sin(self.network.model.language_model, prompt.embeddings, prompt.positions)
        keys_and_values = self._prefill(*(part[:, :length] for part in (prompt.embeddings, *cos_sin)))
        for index in range(len(keys_and_values) // 2):
            cache.update(*keys_and_values[2 * index : 2 * index + 2], index)

    def _is_ready(self) -> bool:
        """Whether the programs do what the network does, which they are made to if its weights have changed."""
        if self.network.training or not _is_plain(self.network.model):
            return False
        state = _state(self.network.model)
        with self._lock:
            if state != self._state:
                logger.info("the weights have changed: compiling them anew for OpenVINO")
                self._encoder, self._prefill = _compiled_parts(self.network)
                self._state = state
        return True


class _Prompt(NamedTuple):
    ids: torch.Tensor
    """int64 [1, K]."""
    embeddings: torch.Tensor
    """[1, K, D]."""
    positions: torch.Tensor
    """int64 [1, K]."""
    compressed: ShortenedPrompt | None


class _Encoder(nn.Module):
    """Pixel values [T, 3, S, S] to image tokens [T, N, D]."""

    def __init__(self, model: MiniMonkeyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return InternVLModel.get_image_features(self.model, pixel_values=pixel_values, return_dict=True).pooler_output


class _Prefill(nn.Module):
    """Reads a prompt: embeddings [1, L, D], rotary cosines and sines to keys and values of each layer in turn."""

    def __init__(self, text: nn.Module) -> None:
        super().__init__()
        self.text = text

    def forward(self, hidden: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> tuple[torch.Tensor, ...]:
        cache = _EmptyCache()
        for layer in self.text.layers:  # no mask: that is causal attention
            hidden = layer(hidden, attention_mask=None, position_embeddings=(cosines, sines), **{CACHE: cache})
        return tuple(cache)


class _EmptyCache(list[torch.Tensor]):
    """What a layer takes for a cache that was empty: keys and values of each layer in turn."""

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.extend((keys, values))
        return keys, values


def _compiled_parts(network: MiniMonkeyForConditionalGeneration) -> tuple[Callable[..., list[torch.Tensor]], ...]:
    """The encoder with the projector, and the language model's layers, of copies that share the network's weights."""
    places = {str(parameter.device.type) for parameter in network.parameters()}
    if places != {"cpu"} or network.dtype not in (torch.float32, torch.bfloat16) or getattr(network, "is_quantized", False):
        found = f"{network.dtype} on {' and '.join(sorted(places))}"
        raise UsageError(
            f"engine='openvino' computes float32 or bfloat16 weights, not quantized ones, on a CPU; this model has {found}: "
            "leave engine out"
        )
    kind = network.config.text_config.model_type
    if kind not in TEXT_MODELS:
        raise UsageError(f"engine='openvino' reads with {', '.join(TEXT_MODELS)}; this language model is {kind}: leave engine out")
    model = copy.deepcopy(network.model, {id(tensor): tensor for tensor in _tensors(network.model).values()}).eval()
    text, side, dtype = model.language_model, model.config.vision_config.image_size[0], network.dtype
    encoder = compiled(_Encoder(model), (torch.zeros(1, 3, side, side, dtype=dtype),), [[-1, 3, side, side]], dtype)
    text.config._attn_implementation = REPEATED  # causal without a mask; "eager" isn't
    hidden = torch.zeros(1, 8, text.config.hidden_size, dtype=dtype)
    example = (hidden, *rotary_cos_sin(text, hidden, torch.arange(8)[None]))
    return encoder, compiled(_Prefill(text), example, [[1, -1, part.shape[-1]] for part in example], dtype)


def _tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _is_plain(model: nn.Module) -> bool:
    """Whether no hook, no replaced forward and no foreign module changes what the modules do."""
    return all(
        type(module).__module__.partition(".")[0] in KNOWN_MODULES
        and "forward" not in vars(module)
        and all(
            hook.__module__ in HARMLESS_HOOKS for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        )
        for module in model.modules()
    )


def _state(model: nn.Module) -> list[tuple]:
    """What changes if a weight does: where it lies, how often it was written, some of its values."""
    return [
        (name, tensor.data_ptr(), tensor.dtype, 0 if tensor.is_inference() else tensor._version, _sample(tensor))
        for name, tensor in _tensors(model).items()
    ]


@torch.no_grad()
def _sample(tensor: torch.Tensor) -> float:
    return float(tensor.detach().flatten()[:: max(1, tensor.numel() // SAMPLE)].double().sum())


@contextmanager
def _explained(doing: str, *failures: type[Exception]) -> Iterator[None]:
    """These failures become a UsageError of one line, or a ShortOfMemoryError that says at what memory ran out."""
    try:
        with explain_out_of_memory(doing, HINTS["openvino"]):
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
    """A module, traced and compiled by OpenVINO: tensors in, tensors out. Calls from several threads take turns.

    Args:
        module: its weights are compiled as they are now.
        example: inputs to trace it with.
        shapes: of its inputs, -1 for any length.
        dtype: of inputs, outputs and arithmetic.

    Returns:
        A function of the module's inputs that gives a list of its outputs; it raises UsageError and ShortOfMemoryError too.

    Raises:
        MissingExtraError: OpenVINO isn't installed.
        UsageError: the module can't be traced, converted or compiled.
        ShortOfMemoryError: memory doesn't hold the weights once more.
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
