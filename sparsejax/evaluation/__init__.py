"""Evaluation: the measures of a run, adversarial attacks, and robustness reports."""

from sparsejax.evaluation.attacks.registry import register_attack
from sparsejax.evaluation.measure import Measure, register_measure
from sparsejax.evaluation.robustness import robustness_report

__all__ = ["Measure", "register_attack", "register_measure", "robustness_report"]
