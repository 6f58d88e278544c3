"""The end of a run: export, report, and the result in one printed block."""

from k15.eval.report import build_report
from k15.eval.run_data import headline, load_run
from k15.runs.loop import Loop


async def finish(loop: Loop) -> None:
    """Write the Hugging Face export and the report, print before and after."""
    run_dir = loop.metrics.run_dir
    if loop.cfg.save.export_hf:
        await loop.export()
    page = build_report(run_dir)
    print(headline(load_run(run_dir)), flush=True)
    print(f"report: {page}", flush=True)
