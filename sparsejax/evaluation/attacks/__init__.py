"""Adversarial attacks in pure JAX, for any `logits_fn(x) -> [batch, classes]`; all but `auto_attack` compile."""

from sparsejax.evaluation.attacks.apgd import apgd, apgd_dlr, apgd_targeted
from sparsejax.evaluation.attacks.ensemble import auto_attack
from sparsejax.evaluation.attacks.fab import fab_targeted
from sparsejax.evaluation.attacks.fmn import Nearest, fmn
from sparsejax.evaluation.attacks.pgd import Adversarial, fgsm, pgd
from sparsejax.evaluation.attacks.square import square

__all__ = [
    "Adversarial",
    "Nearest",
    "apgd",
    "apgd_dlr",
    "apgd_targeted",
    "auto_attack",
    "fab_targeted",
    "fgsm",
    "fmn",
    "pgd",
    "square",
]
