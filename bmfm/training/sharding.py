"""Parameters cut over the devices (FSDP2): each holds its part of every weight, of its gradient, and of what the optimiser keeps of it.

Each layer of the backbone is gathered when it is needed and dropped again; what is left (embeddings, heads, norms) is gathered as one
(https://arxiv.org/abs/2304.11277; `torch.distributed.fsdp.fully_shard`). Checkpoints are written whole, as those of other strategies, so that
a run goes on with any number of devices, and with or without sharding.
"""

from collections.abc import Mapping
from copy import deepcopy
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ModelParallelStrategy, Strategy
from pytorch_lightning.trainer.states import TrainerFn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint as recomputed

from bmfm.models.embeddings import TokenEmbedding
from bmfm.models.model import BmfmModel
from bmfm.tokenizers.batch import Batch
from bmfm.training.module import LitModel

PARAM_DTYPES = {None: None, "bf16": torch.bfloat16}


class ShardedStrategy(ModelParallelStrategy):
    """FSDP2 over all devices of all nodes, for a `ShardedLitModel`.

    Parameters
    ----------
    checkpoint_activations
        Compute what is inside of a layer again in the backward pass, instead of keeping it: a third more to compute, and memory for one layer.
    param_dtype
        What parameters are gathered in: ``bf16``, with trainer.precision=bf16-mixed, halves what is sent; None as they are, with which losses
        are those of DDP. Gradients are added up over the devices in float32.

    Raises
    ------
    ValueError
        If `param_dtype` is unknown.
    """

    def __init__(self, checkpoint_activations: bool = False, param_dtype: str | None = None):
        super().__init__(save_distributed_checkpoint=False)
        if param_dtype not in PARAM_DTYPES:
            raise ValueError(f"trainer.strategy.param_dtype={param_dtype} is unknown; choose from null, bf16")
        self.checkpoint_activations, self.param_dtype = checkpoint_activations, param_dtype

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def shard(self, model: BmfmModel, compile: bool) -> None:
        """Cut a model over the devices, in place; of its layers the forward passes are compiled where that is asked for."""
        policy = MixedPrecisionPolicy(param_dtype=PARAM_DTYPES[self.param_dtype], reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = self.device_mesh["data_parallel"]
        if compile:
            model.backbone.compile_layers()
        for layer in model.backbone.layers:
            if self.checkpoint_activations:
                layer.forward = partial(recomputed, layer.forward, use_reentrant=False)
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
        register_fsdp_forward_method(model, "encode")

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights, in the memory of the main process; elsewhere nothing. Every process must ask."""
        assert self.lightning_module is not None
        return whole(self.lightning_module.state_dict(), self.is_global_zero)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The same of what the optimiser keeps, by the numbers that PyTorch gives to parameters."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return whole(plain.state_dict(), self.is_global_zero)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        like = self.lightning_module.state_dict()
        state = {name: part_of(weight, like[name]) if name in like else weight for name, weight in checkpoint["state_dict"].items()}
        self.lightning_module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            state = {i: {k: part_of(value, parameters[i]) for k, value in of_one.items()} for i, of_one in saved["state"].items()}
            optimizer.load_state_dict(saved | {"state": state})


class ShardedLitModel(LitModel):
    """A `LitModel` whose model is cut over the devices while it trains: a copy of the one that is given, which `finish` fills with what was
    learned. The copy is there as each process builds the model in its own memory before it is cut."""

    def __init__(self, model: BmfmModel, *args: Any, **options: Any):
        if any(isinstance(module, TokenEmbedding) and module.frozen for module in model.modules()):
            raise ValueError(
                "model.pretrained_genes.freeze=true: rows of a table that is cut over devices cannot be frozen; choose trainer=ddp"
            )
        super().__init__(deepcopy(model), *args, **options)

    def configure_model(self) -> None:
        strategy = self.trainer.strategy
        if self.trainer.state.fn != TrainerFn.FITTING or isinstance(self.model, FSDPModule):
            return
        assert isinstance(strategy, ShardedStrategy)
        strategy.shard(self.model, self.compiles_layers)
        self.encode = self.model.encode

    def gradient_norm(self, gradients: list[torch.Tensor]) -> torch.Tensor:
        norm = super().gradient_norm(gradients)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """A device whose examples are all scored gathers parameters for the others."""
        if batch_idx >= self._n_scored:
            self.encode(batch)
        super().validation_step(batch, batch_idx)

    def finish(self, model: BmfmModel) -> None:
        """Give a whole model, on the CPU of every process, the weights, and be one of it from here on. Every process must ask."""
        model.load_state_dict(whole(self.model.state_dict(), True))
        self.model, self.encode = model, model.encode
        self.trainer.strategy.optimizers = []


def check(trainer: pl.Trainer) -> None:
    """ValueError for what does not go with sharding."""
    strategy = trainer.strategy
    assert isinstance(strategy, ShardedStrategy)
    if trainer.precision not in ("32-true", "bf16-mixed"):
        raise ValueError(f"trainer.precision={trainer.precision} does not go with trainer=fsdp2; choose bf16-mixed or 32-true")
    if strategy.param_dtype is not None and trainer.precision != "bf16-mixed":
        raise ValueError(f"trainer.strategy.param_dtype={strategy.param_dtype} needs trainer.precision=bf16-mixed")
    if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]  # as Lightning has it
        raise ValueError(
            "callbacks=ema keeps a whole copy of the weights, which trainer=fsdp2 has nowhere; choose trainer=ddp or callbacks=default"
        )


def whole(value: Any, keep: bool) -> Any:
    """A nested dict or list of tensors, each put together from its parts, on the CPU; {} where they are not kept. Every process must ask."""
    if isinstance(value, dict):
        parts = {name: whole(part, keep) for name, part in value.items()}
        return parts if keep else {}
    if isinstance(value, list):
        return [whole(part, keep) for part in value]
    if isinstance(value, DTensor):
        value = value.full_tensor()
        return value.cpu() if keep else None
    return value.cpu() if isinstance(value, torch.Tensor) else value


def part_of(value: Any, like: torch.Tensor) -> Any:
    """This process's part of a whole tensor, cut as another of its shape is; anything else as it is. Nothing is sent: every process has it whole."""
    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor) and value.shape == like.shape):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
