"""Losses: of classes and attributes where easy or frequent samples would drown the others; all per sample."""

import torch
import torch.nn.functional as F  # noqa: N812 - the name all of torch's users know

_SMALLEST = 1e-6
"""Of what is raised to a power below 1, whose slope at 0 is infinite."""


def focal_cross_entropy(
    logits: torch.Tensor, targets: torch.Tensor, *, gamma: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Cross-entropy times (1 - p) ** gamma, where p is the probability of the true class; float32 (batch,).

    Logits are (batch, num_classes), targets int64 (batch,). Lin et al. 2017, "Focal Loss for Dense Object Detection";
    their alpha is a weight per class.
    """
    losses = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    plain = losses if not label_smoothing else F.cross_entropy(logits, targets, reduction="none")
    return _power(-torch.expm1(-plain), gamma) * losses


def asymmetric(
    logits: torch.Tensor, targets: torch.Tensor, *, gamma_pos: float, gamma_neg: float, margin: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The losses of what is there and of what is not, each of the shape of the logits, and 0 where it is the other.

    Binary cross-entropy times (1 - p) ** gamma_pos where the target is 1, and q ** gamma_neg where it is 0, there with
    q = max(p - margin, 0) in place of p. Ridnik et al. 2021, "Asymmetric Loss for Multi-Label Classification". With one
    gamma and no margin it is the focal loss.
    """
    probabilities = logits.sigmoid()
    shifted = (probabilities - margin).clamp(min=0.0)
    # Near 1 the difference from 1 is lost, but not in the logit.
    log_absent = torch.log1p(-shifted) if margin else F.logsigmoid(-logits)
    present = -targets * _power(1 - probabilities, gamma_pos) * F.logsigmoid(logits)
    absent = (targets - 1) * _power(shifted, gamma_neg) * log_absent
    return present, absent


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """A power of numbers from 0 to 1, with a slope everywhere."""
    return base.clamp(min=_SMALLEST).pow(exponent) if exponent else torch.ones_like(base)
