"""When to give up: the monitored value has not fallen for a while."""

from ssd.spec.config import EarlyStopping


def look(rule: EarlyStopping, memory: dict, epoch: int, value: float) -> tuple[dict, bool]:
    """What to remember now that `value` is known, and whether to stop.

    Args:
        rule: stop once `patience` epochs or more went by since the value last fell by more than `min_delta`. Where
            values come only every few epochs, patience still counts epochs.
        memory: what the last look returned; {} at first. JSON values.
        epoch: 1-based.
        value: of `rule.monitor`.
    """
    fresh = memory.get("monitor") != rule.monitor
    if fresh or value < memory["best"] - rule.min_delta:
        return {"monitor": rule.monitor, "best": value, "epoch": epoch}, False
    return memory, epoch - memory["epoch"] >= rule.patience
