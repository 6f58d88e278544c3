"""How far the planner's answers were from measurements; printed with each of them. Figures: docs/plan.md."""

MEMORY_ERROR = 0.07  # largest relative error of a trainer rank's peak, CPU
STEP_ERROR = 0.18  # of a step's processor time, CPU; 0.09 on the configurations that nothing was fitted on
PUBLISHED_FACTOR = 2.0  # of published training runs on GPUs, at the default plan.mfu

MEASURED = (
    f"memory within {MEMORY_ERROR:.0%} and step time within {STEP_ERROR:.0%} of 16 measured CPU configurations; 11 of 12 "
    f"published GPU runs within a factor of {PUBLISHED_FACTOR:g}; memory on GPUs, engines and hand-off are not measured "
    "(docs/plan.md)"
)
