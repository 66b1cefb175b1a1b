"""Learning-rate schedules under the names of torch.optim.lr_scheduler, with its arguments and values.

    optimizer = cnncc.optim.SGD(lr=0.1, momentum=0.9)
    schedule = SequentialLR(optimizer, [LinearLR(optimizer, 0.1, total_iters=5), CosineAnnealingLR(optimizer, 95)], [5])
    for epoch in range(100):
        ...                                # steps with this optimizer
        schedule.step(validation_loss)     # every schedule takes a metric; only ReduceLROnPlateau reads it

What a training loop needs to know of a schedule:

    schedule.every          "epoch" or "batch": how often `step` is meant to be called (OneCycleLR: "batch"). Every
                            constructor takes it as a keyword.
    schedule.needs_metric   whether `step` must be given a number (ReduceLROnPlateau's `mode` says which way is better)
    schedule.step(metric)   after each epoch (with the validation's metric) or batch; sets the optimizer's `lr` for the
                            next one. No compilation follows: learning rates are run-time inputs of a step.
    schedule.state_dict(), schedule.load_state_dict(state)
                            plain numbers, lists and None, fit for JSON; loading also sets the optimizer's rates
    schedule.get_last_lr()  the rates now: of the groups with an `lr` of their own in order, then the optimizer's

A schedule sets the rates once when it is made (a warm-up starts low). The rate is a function of the rates at the
beginning and the number of steps, never of the last rate, so that a resumed run continues with the same bits.
"""

from cnncc.optim.schedules.base import Schedule
from cnncc.optim.schedules.compose import ChainedScheduler, SequentialLR
from cnncc.optim.schedules.curves import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    MultiStepLR,
    PolynomialLR,
    StepLR,
)
from cnncc.optim.schedules.one_cycle import OneCycleLR
from cnncc.optim.schedules.plateau import ReduceLROnPlateau

__all__ = [
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "Schedule",
    "SequentialLR",
    "StepLR",
]
