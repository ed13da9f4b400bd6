"""ecaviz: look at channel attention, in notebooks and in scripts.

    import ecaviz

    model = ecaviz.load("shapes-eca-k3")
    with ecaviz.capture(model) as gates:
        model.net(batch)
    gates["layer3.0.se"].gate          # N×C

Importing the package is cheap: a name is looked up in its module when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_WHERE = {
    "AttentionProfile": "profiles",
    "CachedRun": "reruns",
    "Coverage": "interaction",
    "CoverageExplorer": "explorers",
    "Effect": "effects",
    "GateSample": "gate_samples",
    "Influence": "influences",
    "InteractionMatrix": "interaction",
    "KernelExplorer": "explorers",
    "LayerExplorer": "layer_explorer",
    "LoadedModel": "models",
    "ModuleExplorer": "explorers",
    "PictureExplorer": "picture_explorer",
    "RuleExplorer": "explorers",
    "adaptive_kernel_size": "attention",
    "audit_summary": "provenance",
    "available": "catalogue",
    "capture": "gates",
    "class_channels": "channel_changes",
    "channel_selectivity": "selectivity",
    "coverage": "interaction",
    "factor_information": "factors",
    "factor_summary": "factors",
    "find_sites": "gates",
    "fold_gates": "folding",
    "frequency_response": "responses",
    "frequency_responses": "responses",
    "gate_health": "health",
    "gate_spread": "gate_variance",
    "influence": "influences",
    "interaction_matrices": "interaction",
    "interaction_matrix": "interaction",
    "intervene": "interventions",
    "intervention_effect": "interventions",
    "intervention_effects": "interventions",
    "kernel_null": "responses",
    "kernel_provenance": "provenance",
    "kernel_responses": "responses",
    "kernel_surgery": "surgery",
    "load": "models",
    "nearest_classes": "nearest",
    "null_responses": "responses",
    "profile": "profiles",
    "rule_audit": "provenance",
    "static_dynamic": "gate_effects",
    "sample_gates": "gate_samples",
    "selectivity_difference": "selectivity",
    "site_selectivity": "selectivity",
    "surgery_effect": "surgery",
    "theme": "themes",
    "variance_parts": "gate_variance",
}
_MODULES = (
    "attention",
    "bundle",
    "coverages",
    "foreign",
    "gates",
    "images",
    "interaction",
    "kernel_study",
    "kernels",
    "locality",
    "measures",
    "models",
    "networks",
    "plots",
    "profiles",
    "responses",
    "results",
    "statistics",
    "survey",
    "training",
)

__all__ = [
    "AttentionProfile",
    "CachedRun",
    "Coverage",
    "CoverageExplorer",
    "Effect",
    "GateSample",
    "Influence",
    "InteractionMatrix",
    "KernelExplorer",
    "LayerExplorer",
    "LoadedModel",
    "ModuleExplorer",
    "PictureExplorer",
    "RuleExplorer",
    "adaptive_kernel_size",
    "attention",
    "audit_summary",
    "available",
    "bundle",
    "capture",
    "channel_selectivity",
    "class_channels",
    "coverage",
    "coverages",
    "factor_information",
    "factor_summary",
    "find_sites",
    "fold_gates",
    "foreign",
    "frequency_response",
    "frequency_responses",
    "gate_health",
    "gate_spread",
    "gates",
    "images",
    "influence",
    "interaction",
    "interaction_matrices",
    "interaction_matrix",
    "intervene",
    "intervention_effect",
    "intervention_effects",
    "kernel_null",
    "kernel_provenance",
    "kernel_responses",
    "kernel_study",
    "kernel_surgery",
    "kernels",
    "load",
    "locality",
    "measures",
    "models",
    "nearest_classes",
    "networks",
    "null_responses",
    "plots",
    "profile",
    "profiles",
    "responses",
    "results",
    "rule_audit",
    "sample_gates",
    "selectivity_difference",
    "site_selectivity",
    "static_dynamic",
    "statistics",
    "surgery_effect",
    "survey",
    "theme",
    "training",
    "variance_parts",
]

if TYPE_CHECKING:
    from . import (
        attention,
        bundle,
        coverages,
        foreign,
        gates,
        images,
        interaction,
        kernel_study,
        kernels,
        locality,
        measures,
        models,
        networks,
        plots,
        profiles,
        responses,
        results,
        statistics,
        survey,
        training,
    )
    from .attention import adaptive_kernel_size
    from .catalogue import available
    from .channel_changes import class_channels
    from .effects import Effect
    from .explorers import CoverageExplorer, KernelExplorer, LayerExplorer, ModuleExplorer, RuleExplorer
    from .factors import factor_information, factor_summary
    from .folding import fold_gates
    from .gate_effects import static_dynamic
    from .gate_samples import GateSample, sample_gates
    from .gate_variance import gate_spread, variance_parts
    from .gates import capture, find_sites
    from .health import gate_health
    from .influences import Influence, influence
    from .interaction import Coverage, InteractionMatrix, coverage, interaction_matrices, interaction_matrix
    from .interventions import intervene, intervention_effect, intervention_effects
    from .models import LoadedModel, load
    from .nearest import nearest_classes
    from .picture_explorer import PictureExplorer
    from .profiles import AttentionProfile, profile
    from .provenance import audit_summary, kernel_provenance, rule_audit
    from .reruns import CachedRun
    from .responses import frequency_response, frequency_responses, kernel_null, kernel_responses, null_responses
    from .selectivity import channel_selectivity, selectivity_difference, site_selectivity
    from .surgery import kernel_surgery, surgery_effect
    from .themes import theme


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    elif name in _MODULES:
        value = importlib.import_module(f".{name}", __name__)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
