"""What one log record a job costs: drain at level info with the log in a file, beside level warning."""

import _common as common


def drain(jobs: int, level: str, form: str = "text") -> float:
    with common.folder() as folder:
        path = folder / "jobs.db"
        common.store(path, jobs)
        with common.worker(path, "--log-format", form, log_level=level) as process:
            return common.time_drain(path, jobs, process).rate


def main() -> None:
    given = common.arguments(__doc__, jobs=(50_000, 10_000), rounds=(5, 3))
    quiet, text, json = [], [], []
    for _ in range(given.rounds):
        quiet.append(drain(given.jobs, "warning"))
        text.append(drain(given.jobs, "info"))
        json.append(drain(given.jobs, "info", "json"))
    figures = [
        common.figure(f"drain, level info, {form}", common.median(rates), common.median(quiet), against="level warning",
                      ratio=common.median_ratio(rates, quiet), reach="at least 0.5",
                      reached=common.median_ratio(rates, quiet) >= 0.5)
        for form, rates in (("text", text), ("json", json))
    ]  # fmt: skip
    common.report("log_level", figures, jobs=given.jobs, rounds=given.rounds)


if __name__ == "__main__":
    main()
