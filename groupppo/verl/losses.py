"""The critic's loss with a weight for each token, which verl's own has no place for; its policy losses have one."""

from functools import partial
from typing import Any

from tensordict import TensorDict
from torch import Tensor
from verl.trainer.ppo.core_algos import compute_value_loss
from verl.utils.metric import AggregationType, Metric
from verl.utils.torch_functional import masked_mean
from verl.workers.utils.losses import value_loss
from verl.workers.utils.padding import no_padding_2_padding

from groupppo.verl.passes import VALUE_WEIGHTS


def weighted_value_loss(
    config: Any, model_output: dict[str, Any], data: TensorDict, dp_group: Any = None
) -> tuple[Tensor, dict[str, Any]]:
    """verl's `value_loss`, each token's term as often as its weight where the batch brings weights.

    Arguments and result are verl's. The clip fraction is a weighted mean, an estimate of that over all tokens.
    """
    if VALUE_WEIGHTS not in data:
        stock: tuple[Tensor, dict[str, Any]] = value_loss(config, model_output, data, dp_group)
        return stock
    found = no_padding_2_padding(model_output["values"], data)
    fields = data.select("values", "returns", "response_mask", VALUE_WEIGHTS).to_padded_tensor()
    loss, clipped = compute_value_loss(
        vpreds=found,
        values=fields["values"],
        returns=fields["returns"],
        response_mask=fields[VALUE_WEIGHTS],
        cliprange_value=config.cliprange_value,
        loss_agg_mode=config.loss_agg_mode,
        dp_size=data["dp_size"],
        batch_num_tokens=data["batch_num_tokens"],
        global_batch_size=data["global_batch_size"],
        loss_scale_factor=config.loss_scale_factor,
    )
    mean = masked_mean(found, fields["response_mask"].to(bool))
    return loss, {
        "critic/vf_loss": Metric(value=loss, aggregation=AggregationType.SUM),
        "critic/vf_clipfrac": clipped.detach().item(),
        "critic/vpred_mean": mean.detach().item(),
    }


def with_weights(loss: Any) -> Any:
    """The same partial function of verl's value loss with the weighted one in its place; another one as it is."""
    return partial(weighted_value_loss, *loss.args, **loss.keywords) if loss.func is value_loss else loss
