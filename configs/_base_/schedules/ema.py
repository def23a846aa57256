# Validate and test an exponential moving average of the weights, over about 5000 iterations in the
# end and fewer in the beginning. With gradient accumulation set `interval` to its counts. Use it by
#   default_hooks = dict(ema=_base_.ema)
ema = dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=2e-4, gamma=100)
