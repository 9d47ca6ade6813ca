"""What PyTorch calls otherwise: answers for names that its users try and that are not here."""

from __future__ import annotations

from collections.abc import Mapping

TENSOR = {
    "add_": "x += y",
    "chunk": "x.split(size)",
    "clamp": "x.clip(min, max)",
    "clone": "copy.copy(x); no tensor ever changes another",
    "contiguous": "x itself: layout is no concern of the user",
    "cpu": "x itself",
    "cuda": 'x.to(device); so far there is "cpu" only',
    "cumsum": "x.cumulative_sum(axis)",
    "data": "x.detach(), and x.assign(value) to change it",
    "dim": "x.ndim",
    "dot": "x @ y",
    "double": "x.astype(schuss.float64)",
    "eq": "x == y",
    "expand": "x.broadcast_to(shape)",
    "fill_": "x.assign(schuss.full_like(x, value))",
    "float": "x.astype(schuss.float32)",
    "gather": "schuss.take_along_axis(x, indices, axis)",
    "half": "x.astype(schuss.float16)",
    "int": "x.astype(schuss.int32)",
    "long": "x.astype(schuss.int64)",
    "masked_fill": "schuss.where(mask, value, x)",
    "mm": "x @ y",
    "norm": "schuss.norm(x)",
    "numel": "x.size",
    "pow": "x ** y",
    "swapaxes": "x.permute(...), or x.mT for the last two axes",
    "t": "x.T",
    "transpose": "x.permute(...), or x.mT for the last two axes",
    "type": "x.astype(dtype)",
    "unsqueeze": "x.expand_dims(axis)",
    "view": "x.reshape(shape)",
    "zero_": "x.assign(schuss.zeros_like(x))",
}

NAMESPACE = {
    "Parameter": "schuss.nn.Parameter",
    "amp": "schuss.autocast, schuss.optim.GradScaler",
    "as_tensor": "schuss.asarray",
    "autograd": "schuss.grad(f)(x), and x.backward()",
    "bmm": "schuss.matmul",
    "cat": "schuss.concat",
    "clamp": "schuss.clip",
    "concatenate": "schuss.concat",
    "cumsum": "schuss.cumulative_sum",
    "device": 'text: device="cpu"',
    "double": "schuss.float64",
    "float": "schuss.float32",
    "from_numpy": "schuss.tensor (which copies)",
    "gather": "schuss.take_along_axis",
    "inference_mode": "schuss.no_grad",
    "int": "schuss.int32",
    "long": "schuss.int64",
    "mm": "schuss.matmul",
    "permute": "schuss.permute_dims",
    "rand": "schuss.random.uniform",
    "randint": "schuss.random.randint",
    "randn": "schuss.random.normal",
    "randperm": "schuss.random.permutation",
    "transpose": "schuss.permute_dims",
    "unsqueeze": "schuss.expand_dims",
    "utils": "schuss.data for data sets and loaders",
}

NN = {
    "ModuleDict": "a plain dict: layers in it are found",
    "ModuleList": "a plain list: layers in it are found",
    "ParameterDict": "a plain dict: parameters in it are found",
    "ParameterList": "a plain list: parameters in it are found",
}

UTILS = {
    "rnn": "lstm(x, lengths=lengths) with padded sequences",
    "clip_grad_norm_": "schuss.optim.clip_grad_norm",
    "clip_grad_value_": "schuss.optim.clip_grad_value",
    "spectral_norm": "schuss.nn.utils.parametrizations.spectral_norm",
    "weight_norm": "schuss.nn.utils.parametrizations.weight_norm",
}

MODULE = {
    "add_module": "self.name = layer",
    "cuda": 'module.to(device); so far there is "cpu" only',
    "double": "module.to(schuss.float64)",
    "float": "module.to(schuss.float32)",
    "half": "module.to(schuss.float16)",
    "register_buffer": "self.name = nn.Buffer(tensor)",
    "register_module": "self.name = layer",
    "register_parameter": "self.name = nn.Parameter(tensor)",
}

OPTIM = {
    "clip_grad_norm_": "schuss.optim.clip_grad_norm",
    "clip_grad_value_": "schuss.optim.clip_grad_value",
}


def missing(where: str, name: str, table: Mapping[str, str]) -> AttributeError:
    """The error for a name that is not there, with the one that is."""
    text = f"{where} has no attribute {name!r}"
    if name in table:
        text += f"; what PyTorch calls {name} is here: {table[name]}"
    return AttributeError(text)
