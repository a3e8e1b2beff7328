"""What the command tells about a job on Dataflow that has failed, or that goes on after a signal."""

from __future__ import annotations

from typing import Any

from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions

MAX_CAUSE = 300


def failure_reason(error: BaseException) -> str | None:
    """Return the message for a job that has failed or was cancelled, or None if the error is another one.

    The message has the id, the state and the cause of the job. The client logs a link to the job as well.
    """
    # The module of the class can be imported only with the extra [gcp].
    if type(error).__name__ != "DataflowRuntimeException":
        return None
    result: Any = getattr(error, "result", None)
    lines = [
        line.strip() for line in str(error).partition("Error:\n")[2].splitlines() if line.strip() not in ("", "None")
    ]
    cause = f": {(lines[-1] if 'Traceback' in lines[0] else lines[0])[:MAX_CAUSE]}" if lines else ""
    return (
        f"stopped: job {result.job_id()} ended on Dataflow in state {result.state}{cause.rstrip('.')}. Committed rows"
        " are kept. Run the same command again to resume."
    )


def interrupt_message(result: Any, options: PipelineOptions) -> str | None:
    """Return the message after a signal for the result of a job on Dataflow, which the signal does not end.

    Args:
        options: the options of the job.

    Returns:
        None if the job does not run on Dataflow.
    """
    if type(result).__name__ != "DataflowPipelineResult":
        return None
    cloud = options.view_as(GoogleCloudOptions)
    return (
        f"interrupted: job {result.job_id()} goes on at Dataflow, and costs money; to end it: gcloud dataflow jobs"
        f" cancel {result.job_id()} --region={cloud.region} --project={cloud.project}"
    )
