"""What the package uses of JAX that JAX does not promise, each with the releases in which it was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from toolkit.jaxprs.internals import trials_of_programs as programs
from toolkit.jaxprs.internals import trials_of_records as records

# The releases that the tests run on, see constraints.txt. A row may name others.
BOTH = ("0.10.1", "0.12.0.1")


class Internal(NamedTuple):
    """Something in JAX that the package uses and that may change with any release."""

    name: str  # as JAX spells it
    affects: str  # what goes wrong in this package once it changes
    check: Callable[[], None]  # raises where it has changed
    seen: tuple[str, ...] = BOTH  # releases of jax


class Fault(NamedTuple):
    """An internal that has changed, and the error by which its check noticed."""

    internal: Internal
    error: Exception

    def __str__(self) -> str:
        said = str(self.error).strip().partition("\n")[0]
        reason = f"{type(self.error).__name__}: {said}" if said else type(self.error).__name__
        return f"{self.internal.name}: {self.internal.affects} ({reason})"


_EVERYTHING = "whatever reads programs: argmin, loops, tk.debug, toolkit run"
_WHERE = "the lines that tk.debug, toolkit audit and @control_flow name"
INTERNALS = (
    Internal("jax.extend.core.Jaxpr, ClosedJaxpr", _EVERYTHING, programs.program),
    Internal(
        "jax.extend.core.Literal, Var",
        "tk.debug, reversible solves, loops over integers",
        programs.written_number,
    ),
    Internal(
        "jax.extend.core.DropVar",
        "tk.debug.explain, tk.debug.dead_gradients",
        programs.dropped_result,
    ),
    Internal("jax.core.eval_jaxpr", _EVERYTHING, programs.evaluation),
    Internal(
        "Primitive.get_bind_params",
        "tk.debug.explain, several seeds as one program",
        programs.custom_derivative,
    ),
    Internal(
        "JaxprEqn.ctx.manager",
        "tk.debug.explain, several seeds as one program",
        programs.settings_of_equation,
    ),
    Internal("JaxprEqn.source_info.traceback.frames", _WHERE, records.lines),
    Internal(
        "Traceback.raw_frames",
        "tk.debug.audit, toolkit audit: who wrote a number",
        records.instructions,
    ),
    Internal(
        "JaxprEqn.source_info.name_stack",
        "tk.debug.explain: forward or backward pass",
        records.transformations,
    ),
    Internal(
        "jax.extend.source_info_util.summarize, register_exclusion",
        "messages of @control_flow: the user's line",
        records.summary,
    ),
    Internal(
        "Jaxpr.debug_info.func_src_info",
        "tk.debug.dead_gradients, tk.debug.audit: whose a derivative rule is",
        records.definition,
    ),
    Internal(
        "JaxRuntimeError.traceback_info of checkify",
        "tk.debug.explain where a replay fails",
        records.failed_check,
    ),
    Internal(
        "jax.extend.core.get_opaque_trace_state",
        "tk.estimator.NodePerturbation: nodes inside loops",
        records.trace_state,
    ),
    Internal(
        "jax.lax.convert_element_type_p",
        "@control_flow: Python numbers in loops",
        records.weak_type,
    ),
    Internal(
        "jax.typeof(x).manual_axis_type",
        "solves and loops inside jax.shard_map",
        records.device_axes,
    ),
    Internal(
        "psum, pmean, all_gather, ...: the parameters axes, axis_name",
        "solves inside jax.shard_map and jax.pmap: collectives that JAX differentiates wrongly",
        records.device_sums,
    ),
    Internal(
        "jit, remat2, composite, custom_jvp_call, custom_vjp_call, custom_vmap_call: their programs",
        "tk.debug, flops in toolkit describe",
        programs.calls,
    ),
    Internal(
        "custom_jvp_call: the parameter jvp_jaxpr_fun; custom_lin in tangents",
        "solves of functions with derivative rules of their own",
        programs.derivative_rules,
    ),
    Internal(
        "closed_call (eval_jaxpr since 0.12): its program",
        "tk.debug on gradients through checkpoints",
        programs.call_of_a_program,
    ),
    Internal("jit: the parameter name", "tk.debug.audit, @control_flow", programs.named_call),
    Internal(
        "debug_print, effects of programs",
        "tk.debug.explain: prints run once",
        programs.callback,
    ),
    Internal(
        "scan: parameters (num_consts, num_carry; ft_in since 0.12)",
        "tk.debug, several seeds as one program, loops over integers",
        programs.scan,
    ),
    Internal("while: parameters", "tk.debug", programs.while_loop),
    Internal("cond: the parameter branches", "tk.debug, loops over integers", programs.condition),
    Internal(
        "custom_linear_solve: parameters", "tk.debug on implicit solves", programs.linear_solve
    ),
    Internal(
        "shard_map: parameters (manual_axes; newly_manual_axes since 0.12)",
        "tk.debug.explain over several devices",
        programs.shard_map,
    ),
    Internal(
        "sharding_constraint, device_put: parameters",
        "runs on a mesh: states that an experiment splits over devices itself",
        programs.own_layout,
    ),
    Internal(
        "integer_pow, iota, gather, dot_general, conv_general_dilated, reduce_window: parameters",
        "tk.debug.dead_gradients, flops in toolkit describe, loops over integers",
        programs.parameters,
    ),
    Internal(
        "jax.lax.dot_general_p, transpose_p, optimization_barrier_p",
        "the speed of solves with few columns on a CPU",
        programs.rearranged_product,
    ),
    Internal(
        "jit(f)._cache_size, the event of a compilation",
        "tk.debug.watch",
        records.compilations,
    ),
    Internal("jit(f)._jit_info", "tk.debug.watch: static arguments", records.static_arguments),
    Internal("files below jax/_src", "tk.debug.audit, toolkit audit", records.files_of_jax),
    Internal(
        "code of jax.vmap, jax.shard_map and jax.random.key",
        "tk.debug.annotate, tk.debug.audit",
        records.wrappers_of_jax,
    ),
    Internal(
        "jax.extend.core.Primitive, jax.interpreters.ad, batching, mlir",
        "derivatives that a rule refuses by name",
        programs.own_primitive,
    ),
    Internal(
        "jax.interpreters.batching.fancy_primitive_batchers, AxisData",
        "derivatives of tk.while_loop with a bound, under vmap",
        programs.lanes_of_own_primitive,
    ),
)


def faults() -> Iterator[Fault]:
    """The internals that do not pass their check with the installed jax.

    Cost: about a second, most of it to compile single operations.
    """
    for internal in INTERNALS:
        try:
            internal.check()
        except Exception as error:
            yield Fault(internal, error)
