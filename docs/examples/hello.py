"""A flow with parameters, log lines and retries."""

from flow_agent import current_run, flow


@flow(name="hello", retries=2, retry_delay=1)
def hello(name: str = "World", times: int = 1, stumble: bool = False) -> str:
    """Greet somebody ``times`` times; with ``stumble`` the first attempt fails."""
    run = current_run()
    run.logger.info("attempt %d of run %s", run.attempt, run.id)
    if stumble and run.attempt == 1:
        raise RuntimeError("stumbled; the next attempt will not")
    for number in range(1, times + 1):
        print(f"{number}: Hello, {name}!")
    return f"greeted {name} {times} times"


if __name__ == "__main__":
    # Here and now, without queue and agent; registering the file does not do this.
    print(hello.run(name="you"))
