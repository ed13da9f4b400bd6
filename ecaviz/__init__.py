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
    "GateSample": "gate_samples",
    "Influence": "influences",
    "InteractionMatrix": "interaction",
    "KernelExplorer": "explorers",
    "LayerExplorer": "explorers",
    "LoadedModel": "models",
    "ModuleExplorer": "explorers",
    "RuleExplorer": "explorers",
    "adaptive_kernel_size": "attention",
    "audit_summary": "provenance",
    "available": "catalogue",
    "capture": "gates",
    "channel_selectivity": "selectivity",
    "coverage": "interaction",
    "factor_information": "factors",
    "factor_summary": "factors",
    "find_sites": "gates",
    "frequency_response": "responses",
    "frequency_responses": "responses",
    "gate_health": "health",
    "gate_spread": "gate_variance",
    "influence": "influences",
    "interaction_matrices": "interaction",
    "interaction_matrix": "interaction",
    "kernel_null": "responses",
    "kernel_provenance": "provenance",
    "kernel_responses": "responses",
    "kernel_surgery": "surgery",
    "load": "models",
    "null_responses": "responses",
    "profile": "profiles",
    "rule_audit": "provenance",
    "sample_gates": "gate_samples",
    "selectivity_difference": "selectivity",
    "site_selectivity": "selectivity",
    "surgery_effect": "surgery",
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
    "GateSample",
    "Influence",
    "InteractionMatrix",
    "KernelExplorer",
    "LayerExplorer",
    "LoadedModel",
    "ModuleExplorer",
    "RuleExplorer",
    "adaptive_kernel_size",
    "attention",
    "audit_summary",
    "available",
    "bundle",
    "capture",
    "channel_selectivity",
    "coverage",
    "coverages",
    "factor_information",
    "factor_summary",
    "find_sites",
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
    "statistics",
    "surgery_effect",
    "survey",
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
    from .explorers import CoverageExplorer, KernelExplorer, LayerExplorer, ModuleExplorer, RuleExplorer
    from .factors import factor_information, factor_summary
    from .gate_samples import GateSample, sample_gates
    from .gate_variance import gate_spread, variance_parts
    from .gates import capture, find_sites
    from .health import gate_health
    from .influences import Influence, influence
    from .interaction import Coverage, InteractionMatrix, coverage, interaction_matrices, interaction_matrix
    from .models import LoadedModel, load
    from .profiles import AttentionProfile, profile
    from .provenance import audit_summary, kernel_provenance, rule_audit
    from .reruns import CachedRun
    from .responses import frequency_response, frequency_responses, kernel_null, kernel_responses, null_responses
    from .selectivity import channel_selectivity, selectivity_difference, site_selectivity
    from .surgery import kernel_surgery, surgery_effect


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
